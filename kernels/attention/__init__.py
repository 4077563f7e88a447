"""Attention over plain K and V: paged decode and tree masks."""
