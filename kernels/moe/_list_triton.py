"""What the grouped products for Hopper want: a list of their tiles, and rows copied together by expert."""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

TILE_FIELDS = tl.constexpr(4)
"""Columns of `tiles`: expert, first row, end of the expert's rows, block of columns."""


@triton.jit
def list_tiles(
    expert_ends, tiles, num_tiles,
    NUM_EXPERTS: tl.constexpr, EXPERTS_BLOCK: tl.constexpr, BLOCK_M: tl.constexpr, COLUMN_BLOCKS: tl.constexpr,
    BLOCK: tl.constexpr, DEPENDENT_LAUNCH: tl.constexpr,
):  # fmt: skip
    """Program e lists the tiles of expert e: those that share weights follow each other. num_tiles[0]: of all."""
    if DEPENDENT_LAUNCH:
        gdc_launch_dependents()
        gdc_wait()
    expert = tl.program_id(0)
    each = tl.arange(0, EXPERTS_BLOCK)
    end = tl.load(expert_ends + each, mask=each < NUM_EXPERTS, other=0)
    start = tl.load(expert_ends + each - 1, mask=(each > 0) & (each < NUM_EXPERTS), other=0)
    row_tiles = tl.cdiv(end - start, BLOCK_M)
    before = tl.sum(tl.where(each < expert, row_tiles, 0), 0) * COLUMN_BLOCKS
    tl.store(num_tiles, tl.sum(row_tiles, 0) * COLUMN_BLOCKS)
    own_tiles = tl.sum(tl.where(each == expert, row_tiles, 0), 0)
    own_start = tl.sum(tl.where(each == expert, start, 0), 0)
    own_end = tl.sum(tl.where(each == expert, end, 0), 0)
    for first in range(0, own_tiles * COLUMN_BLOCKS, BLOCK):
        i = first + tl.arange(0, BLOCK)
        mask = i < own_tiles * COLUMN_BLOCKS
        row_tile = i % tl.maximum(own_tiles, 1)
        at = tiles + (before + i) * TILE_FIELDS
        tl.store(at, tl.zeros([BLOCK], tl.int32) + expert, mask=mask)
        tl.store(at + 1, own_start + row_tile * BLOCK_M, mask=mask)
        tl.store(at + 2, tl.zeros([BLOCK], tl.int32) + own_end, mask=mask)
        tl.store(at + 3, i // tl.maximum(own_tiles, 1), mask=mask)


@triton.jit
def gather_rows(
    x, sorted_slots, expert_ends, rows,
    NUM_EXPERTS: tl.constexpr, COLUMNS: tl.constexpr, SLOTS_PER_TOKEN: tl.constexpr, BLOCK: tl.constexpr,
    DEPENDENT_LAUNCH: tl.constexpr,
):  # fmt: skip
    """rows[r] = x[sorted_slots[r] // SLOTS_PER_TOKEN] for one r and BLOCK columns; none behind the last expert's."""
    if DEPENDENT_LAUNCH:
        gdc_launch_dependents()
        gdc_wait()
    row = tl.program_id(0).to(tl.int64)
    if row >= tl.load(expert_ends + NUM_EXPERTS - 1):
        return
    token = (tl.load(sorted_slots + row) // SLOTS_PER_TOKEN).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = column < COLUMNS
    tl.store(rows + row * COLUMNS + column, tl.load(x + token * COLUMNS + column, mask=mask), mask=mask)
