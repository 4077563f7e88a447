"""Rounding of sizes, without torch or triton."""

from __future__ import annotations


def next_power_of_2(n: int) -> int:
    """The least that is not smaller; at least 1."""
    return 1 << max(0, n - 1).bit_length()
