"""Tiles have powers of two as columns; heads of 80, 96 or 192 have fewer."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def in_head(is_row, column, HEAD_DIM: tl.constexpr, COLUMNS: tl.constexpr):
    """The mask `is_row`, [.., 1], for COLUMNS of a head: a power of two, of which it may have fewer."""
    mask = is_row
    if HEAD_DIM % COLUMNS != 0:
        mask = is_row & (column < HEAD_DIM)
    return mask
