"""Measuring: worker processes, launches of interleaved blocks, precompilation."""
