"""A kernel from outside: how it is brought into a tree of its own, and what the gate says of it there."""
