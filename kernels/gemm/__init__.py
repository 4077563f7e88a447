"""Small, skinny and large products of activations with the weights of linear layers."""
