"""Mixture of experts: the router, the exchange of tokens, the experts' products, the whole layer."""
