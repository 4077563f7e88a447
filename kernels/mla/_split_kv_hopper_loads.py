"""The fetching warpgroup of `_split_kv_hopper`, which says how the two work together, and where its parts begin."""

from __future__ import annotations

from typing import Any

import torch
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import async_copy
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, tma
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

# Renamed after Triton 3.6.
async_load = getattr(async_copy, "async_load", None) or async_copy.async_copy_global_to_shared
tma_load = getattr(tma, "async_load", None) or tma.async_copy_global_to_shared

ROWS_OF_BLOCK = gl.constexpr(64)
TOKENS = gl.constexpr(64)
HALF = gl.constexpr(256)
ROPE_DIM = gl.constexpr(64)
DIM = gl.constexpr(576)
COPY = gl.constexpr(gl.BlockedLayout([1, 8], [4, 8], [4, 1], [1, 0]))  # 16 bytes a thread, 128 a row
SHARED = gl.constexpr(gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=2))
LINE = gl.constexpr(gl.BlockedLayout([1], [32], [4], [0]))
PRODUCER_THREADS = gl.constexpr(128)


def has_whole_tiles(kv_cache: torch.Tensor) -> bool:
    """Whether no tile of tokens that starts at a multiple of its length lies on two pages."""
    return bool(kv_cache.shape[1] % TOKENS.value == 0)


def in_tiles(kv_cache: torch.Tensor, columns: int) -> Any:
    """The cache as TMA takes it, [TOKENS, columns] at a time; as it is where tiles lie on several pages."""
    if not has_whole_tiles(kv_cache):
        return kv_cache
    return TensorDescriptor.from_tensor(kv_cache.flatten(0, 1), [TOKENS.value, columns], SHARED.value)


@gluon.jit
def _add(a, b):
    return a + b


@gluon.jit
def find_part(seq_lens, batch, part, BATCH_BLOCK: gl.constexpr, NUM_PARTS: gl.constexpr, MIN_TILES: gl.constexpr):
    """Its first tile and its end among all tiles, the sequence that it begins in, and that sequence's first tile."""
    index = gl.arange(0, BATCH_BLOCK, layout=LINE)
    tiles = gl.cdiv(gl.load(seq_lens + index, mask=index < batch, other=0), TOKENS)
    ends = gl.associative_scan(tiles, 0, _add)
    total_tiles = gl.sum(tiles, 0)
    part_tiles = gl.maximum(gl.cdiv(total_tiles, NUM_PARTS), MIN_TILES)
    part_start = part * part_tiles
    part_end = gl.minimum(part_start + part_tiles, total_tiles)
    sequence = gl.sum((ends <= part_start).to(gl.int32), 0)
    start = gl.sum(gl.where(ends <= part_start, tiles, 0), 0)
    return part_start, part_end, sequence, start


@gluon.jit
def tiles_here(start, seq_len, part_start, part_end):
    """Of a sequence whose first tile is `start` among all: its first tile in this part, and how many there are."""
    first = gl.maximum(part_start - start, 0)
    return first, gl.minimum(gl.cdiv(seq_len, TOKENS), part_end - start) - first


@gluon.jit
def _copy(target, rows, used, column, COLUMNS: gl.constexpr, full):
    """Start the copy of [64, COLUMNS], 0 where a row is not used; each thread arrives at `full` when its part is in."""
    columns = column + gl.arange(0, COLUMNS, layout=gl.SliceLayout(0, COPY))
    async_load(target, rows[:, None] + columns[None, :], mask=used[:, None])
    async_copy.mbarrier_arrive(full, increment_count=False)


@gluon.jit
def _fetch(target, cache, first_row, column, COLUMNS: gl.constexpr, full):
    """As `_copy`, of rows that follow each other, by TMA: one thread arrives for all."""
    mbarrier.expect(full, TOKENS * COLUMNS * 2)
    mbarrier.arrive(full, count=PRODUCER_THREADS - 1)
    tma_load(cache, [first_row, column], full, target)


@gluon.jit
def _load_pages(block_table_row, token, seq_len, PAGE_SIZE: gl.constexpr):
    return gl.load(block_table_row + token // PAGE_SIZE, mask=token < seq_len, other=0)


@gluon.jit
def _copy_tile(
    token, pages, seq_len, kv_cache, halves, ropes, full, rope_empty, half_empty, buffer, phase, PAGE_SIZE: gl.constexpr
):
    """Of any pages: each part as soon as its place is free."""
    used = token < seq_len
    rows = kv_cache + (pages.to(gl.int64) * PAGE_SIZE + token % PAGE_SIZE) * DIM
    own, other = buffer * 2 + buffer, buffer * 2 + 1 - buffer
    mbarrier.wait(rope_empty.index(buffer), phase)
    _copy(ropes.index(buffer), rows, used, 2 * HALF, ROPE_DIM, full.index(4 + buffer))
    mbarrier.wait(half_empty.index(own), phase)
    _copy(halves.index(own), rows, used, buffer * HALF, HALF, full.index(own))
    mbarrier.wait(half_empty.index(other), phase)
    _copy(halves.index(other), rows, used, (1 - buffer) * HALF, HALF, full.index(other))


@gluon.jit
def _fetch_tile(first_row, cache_halves, cache_ropes, halves, ropes, full, rope_empty, half_empty, buffer, phase):
    """As `_copy_tile`, within a page."""
    own, other = buffer * 2 + buffer, buffer * 2 + 1 - buffer
    mbarrier.wait(rope_empty.index(buffer), phase)
    _fetch(ropes.index(buffer), cache_ropes, first_row, 2 * HALF, ROPE_DIM, full.index(4 + buffer))
    mbarrier.wait(half_empty.index(own), phase)
    _fetch(halves.index(own), cache_halves, first_row, buffer * HALF, HALF, full.index(own))
    mbarrier.wait(half_empty.index(other), phase)
    _fetch(halves.index(other), cache_halves, first_row, (1 - buffer) * HALF, HALF, full.index(other))


@gluon.jit
def produce(
    q, kv_cache, cache_halves, cache_ropes, block_table, seq_lens, max_pages, part_start, part_end, sequence, start,
    q_halves, halves, ropes, q_full, q_empty, full, rope_empty, half_empty,
    ROWS: gl.constexpr, PAGE_SIZE: gl.constexpr, TMA: gl.constexpr,
):  # fmt: skip
    """The producer: four warps, so that a tile's rows take few registers."""
    uses0, uses1, items = 0, 0, 0
    row = gl.arange(0, TOKENS, layout=gl.SliceLayout(1, COPY))
    q_row = gl.program_id(0) * ROWS_OF_BLOCK + row
    while start < part_end:
        seq_len = gl.load(seq_lens + sequence)
        first, count = tiles_here(start, seq_len, part_start, part_end)
        if count > 0:
            block_table_row = block_table + sequence.to(gl.int64) * max_pages
            token = first * TOKENS + row
            if TMA:  # only the last tile is copied
                page = _load_pages(block_table_row, first * TOKENS, seq_len, PAGE_SIZE)
                pages = _load_pages(block_table_row, token + (count - 1) * TOKENS, seq_len, PAGE_SIZE)
            else:
                pages = _load_pages(block_table_row, token, seq_len, PAGE_SIZE)
            q_rows = q + (sequence.to(gl.int64) * ROWS + q_row) * DIM
            mbarrier.wait(q_empty, (items & 1) ^ 1)
            columns = gl.arange(0, HALF, layout=gl.SliceLayout(0, COPY))
            async_load(q_halves.index(0), q_rows[:, None] + columns[None, :], mask=(q_row < ROWS)[:, None])
            _copy(q_halves.index(1), q_rows, q_row < ROWS, HALF, HALF, q_full)
            for i in range(count):
                buffer = i & 1
                phase = ((uses0 + (uses1 - uses0) * buffer + i // 2) & 1) ^ 1
                first_token = (first + i) * TOKENS
                if TMA:
                    first_row = page * PAGE_SIZE + first_token % PAGE_SIZE
                    page = _load_pages(block_table_row, first_token + TOKENS, seq_len, PAGE_SIZE)
                    if first_token + TOKENS <= seq_len:  # it would bring stale tokens too
                        _fetch_tile(
                            first_row, cache_halves, cache_ropes, halves, ropes, full, rope_empty, half_empty, buffer,
                            phase,
                        )  # fmt: skip
                    else:
                        _copy_tile(
                            token, pages, seq_len, kv_cache, halves, ropes, full, rope_empty, half_empty, buffer, phase,
                            PAGE_SIZE,
                        )  # fmt: skip
                else:
                    these = pages
                    pages = _load_pages(block_table_row, token + TOKENS, seq_len, PAGE_SIZE)
                    _copy_tile(
                        token, these, seq_len, kv_cache, halves, ropes, full, rope_empty, half_empty, buffer, phase,
                        PAGE_SIZE,
                    )  # fmt: skip
                token += TOKENS
            uses0 += (count + 1) // 2
            uses1 += count // 2
            items += 1
        start += gl.cdiv(seq_len, TOKENS)
        sequence += 1
