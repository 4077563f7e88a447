"""Paged KV caches: rotary embeddings, appending to a cache, gathering from one."""
