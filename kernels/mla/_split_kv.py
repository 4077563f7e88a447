"""The kernels of triton_split_kv, which says how they work, for every kernel that has a decode in it."""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from ..problem import Outputs
from ._dims import KV_LORA_RANK, QK_ROPE_HEAD_DIM
from ._split_kv_plan import SplitKVPlan

LOG2_E = math.log2(math.e)
LN_2 = tl.constexpr(math.log(2))


@triton.jit
def _tiles_of_sequences(seq_lens, batch, BATCH_BLOCK: tl.constexpr, BLOCK_N: tl.constexpr):
    """Tiles in every sequence [BATCH_BLOCK], 0 past the batch."""
    sequence = tl.arange(0, BATCH_BLOCK)
    return tl.cdiv(tl.load(seq_lens + sequence, mask=sequence < batch, other=0), BLOCK_N)


@triton.jit
def _tiles_of_a_part(total_tiles, NUM_PARTS: tl.constexpr, MIN_TILES: tl.constexpr):
    return tl.maximum(tl.cdiv(total_tiles, NUM_PARTS), MIN_TILES)


@triton.jit
def _load_pages(block_table_row, first_token, seq_len, PAGE_SIZE: tl.constexpr, BLOCK_N: tl.constexpr):
    """Pages of a tile: one number where a tile lies within a page, else one a token."""
    token = first_token if PAGE_SIZE % BLOCK_N == 0 else first_token + tl.arange(0, BLOCK_N)
    return tl.load(block_table_row + token // PAGE_SIZE, mask=token < seq_len, other=0)


@triton.jit
def _attend(
    q_latent, q_rope, kv_cache, block_table_row, first_tile, last_tile, seq_len, last_seen, scale_log2,
    PAGE_SIZE: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_N: tl.constexpr, LATENT: tl.constexpr, ROPE: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    """Attention of BLOCK_H rows over tiles [first_tile, last_tile): unscaled out [BLOCK_H, 512], maximum, sum."""
    maximum = tl.full([BLOCK_H], float("-inf"), tl.float32)  # of the scores in base 2
    total = tl.zeros([BLOCK_H], tl.float32)
    acc = tl.zeros([BLOCK_H, LATENT], tl.float32)
    latent_column, rope_column = tl.arange(0, LATENT), LATENT + tl.arange(0, ROPE)
    # The pages of the next tile are loaded one tile ahead: an address that waits for no load lets the tile's own
    # loads be pipelined.
    pages = _load_pages(block_table_row, first_tile * BLOCK_N, seq_len, PAGE_SIZE, BLOCK_N)
    for tile in tl.range(first_tile, last_tile, num_stages=STAGES):
        token = tile * BLOCK_N + tl.arange(0, BLOCK_N)
        slot = pages.to(tl.int64) * PAGE_SIZE + token % PAGE_SIZE  # [BLOCK_N]; caches exceed 2^31 elements
        row = kv_cache + slot[:, None] * (LATENT + ROPE)
        used = (token < seq_len)[:, None]  # stale tokens may hold anything, NaN too
        latent = tl.load(row + latent_column[None, :], mask=used, other=0.0).to(q_latent.dtype)
        rope = tl.load(row + rope_column[None, :], mask=used, other=0.0).to(q_latent.dtype)
        pages = _load_pages(block_table_row, (tile + 1) * BLOCK_N, seq_len, PAGE_SIZE, BLOCK_N)

        scores = tl.dot(q_latent, latent.T)
        scores = tl.dot(q_rope, rope.T, acc=scores) * scale_log2
        scores = tl.where(token[None, :] <= last_seen[:, None], scores, float("-inf"))
        new_maximum = tl.maximum(maximum, tl.max(scores, 1))
        shift = tl.where(new_maximum == float("-inf"), 0.0, new_maximum)  # a row that has seen nothing yet
        probabilities = tl.exp2(scores - shift[:, None])
        decay = tl.exp2(maximum - shift)
        total = total * decay + tl.sum(probabilities, 1)
        acc = tl.dot(probabilities.to(latent.dtype), latent, acc=acc * decay[:, None])
        maximum = new_maximum
    return acc, maximum, total


@triton.jit
def _store_rows(out, lse, index, row, out_values, lse_values, ROWS: tl.constexpr, LATENT: tl.constexpr):
    """Rows of block `index` of [*, ROWS, 512] and [*, ROWS]."""
    at = index.to(tl.int64) * ROWS + row
    tl.store(lse + at, lse_values, mask=row < ROWS)
    pointers = out + at[:, None] * LATENT + tl.arange(0, LATENT)[None, :]
    tl.store(pointers, out_values.to(out.dtype.element_ty), mask=(row < ROWS)[:, None])


@triton.jit
def _decode(
    q, kv_cache, block_table, seq_lens, out, lse, partial_out, partial_lse, batch, max_pages, scale_log2,
    NUM_HEADS: tl.constexpr, SEQ_LEN_Q: tl.constexpr, PAGE_SIZE: tl.constexpr, LATENT: tl.constexpr, ROPE: tl.constexpr,
    BATCH_BLOCK: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_N: tl.constexpr, NUM_PARTS: tl.constexpr,
    MIN_TILES: tl.constexpr, STAGES: tl.constexpr, DEPENDENT_LAUNCH: tl.constexpr,
):  # fmt: skip
    """Program (i, p): rows [i * BLOCK_H, ..) of every sequence that part p of the tiles touches.

    Row blocks are neighbours in the grid: they read the same tokens at the same time, once from memory.
    """
    if DEPENDENT_LAUNCH:
        gdc_launch_dependents()
    ROWS: tl.constexpr = SEQ_LEN_Q * NUM_HEADS
    part = tl.program_id(1)
    row = tl.program_id(0) * BLOCK_H + tl.arange(0, BLOCK_H)
    is_row = row < ROWS
    tiles = _tiles_of_sequences(seq_lens, batch, BATCH_BLOCK, BLOCK_N)
    ends = tl.cumsum(tiles, 0)
    total_tiles = tl.sum(tiles, 0)
    part_tiles = _tiles_of_a_part(total_tiles, NUM_PARTS, MIN_TILES)
    part_start = part * part_tiles
    part_end = tl.minimum(part_start + part_tiles, total_tiles)
    sequence = tl.sum((ends <= part_start).to(tl.int32), 0)
    start = tl.sum(tl.where(ends <= part_start, tiles, 0), 0)  # of the sequence, counted in tiles of all
    latent_column, rope_column = tl.arange(0, LATENT), LATENT + tl.arange(0, ROPE)
    while start < part_end:
        seq_len = tl.load(seq_lens + sequence)
        end = start + tl.cdiv(seq_len, BLOCK_N)
        if end > start:
            q_row = q + (sequence.to(tl.int64) * ROWS + row)[:, None] * (LATENT + ROPE)
            q_latent = tl.load(q_row + latent_column[None, :], mask=is_row[:, None], other=0.0)
            q_rope = tl.load(q_row + rope_column[None, :], mask=is_row[:, None], other=0.0)
            acc, maximum, total = _attend(
                q_latent, q_rope, kv_cache, block_table + sequence.to(tl.int64) * max_pages,
                tl.maximum(part_start, start) - start, tl.minimum(part_end, end) - start,
                seq_len, seq_len - SEQ_LEN_Q + row // NUM_HEADS, scale_log2,
                PAGE_SIZE, BLOCK_H, BLOCK_N, LATENT, ROPE, STAGES,
            )  # fmt: skip
            seen = total > 0
            acc *= tl.where(seen, 1.0 / tl.where(seen, total, 1.0), 0.0)[:, None]
            row_lse = tl.where(seen, maximum + tl.log2(tl.where(seen, total, 1.0)), float("-inf"))
            if (start >= part_start) & (end <= part_end):
                _store_rows(out, lse, sequence, row, acc, row_lse * LN_2, ROWS, LATENT)
            else:
                # Slot 0 of a part: the sequence that it continues. Slot 1: the one that it begins and leaves open.
                slot = part * 2 + (start >= part_start).to(tl.int32)
                _store_rows(partial_out, partial_lse, slot, row, acc, row_lse, ROWS, LATENT)
        start = end
        sequence += 1


@triton.jit
def _combine(
    seq_lens, out, lse, partial_out, partial_lse, batch,
    ROWS: tl.constexpr, LATENT: tl.constexpr, BATCH_BLOCK: tl.constexpr, BLOCK_N: tl.constexpr,
    NUM_PARTS: tl.constexpr, MIN_TILES: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_P: tl.constexpr, DEPENDENT_LAUNCH: tl.constexpr,
):  # fmt: skip
    """Program (b, i, j): rows [i * BLOCK_R, ..), columns [j * BLOCK_D, ..) of sequence b, unless `_decode` wrote it."""
    sequence = tl.program_id(0)
    tiles = _tiles_of_sequences(seq_lens, batch, BATCH_BLOCK, BLOCK_N)
    part_tiles = _tiles_of_a_part(tl.sum(tiles, 0), NUM_PARTS, MIN_TILES)
    start = tl.sum(tl.where(tl.arange(0, BATCH_BLOCK) < sequence, tiles, 0), 0)
    end = start + tl.cdiv(tl.load(seq_lens + sequence), BLOCK_N)
    first = start // part_tiles
    num_parts = tl.where(end > start, (end - 1) // part_tiles - first + 1, 0)
    if DEPENDENT_LAUNCH:
        gdc_wait()  # every program waits, or this kernel could end before `_decode` does
    if num_parts == 1:
        return
    row = tl.program_id(1) * BLOCK_R + tl.arange(0, BLOCK_R)
    column = tl.program_id(2) * BLOCK_D + tl.arange(0, BLOCK_D)
    is_row = row < ROWS
    maximum = tl.full([BLOCK_R], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_R], tl.float32)
    acc = tl.zeros([BLOCK_R, BLOCK_D], tl.float32)
    for block in range(0, num_parts, BLOCK_P):
        index = block + tl.arange(0, BLOCK_P)
        slot = (first + index) * 2 + (index == 0).to(tl.int32)
        at = slot.to(tl.int64)[:, None] * ROWS + row[None, :]  # [BLOCK_P, BLOCK_R]
        mask = (index < num_parts)[:, None] & is_row[None, :]
        part_lse = tl.load(partial_lse + at, mask=mask, other=float("-inf"))
        part_out = tl.load(
            partial_out + at[:, :, None] * LATENT + column[None, None, :], mask=mask[:, :, None], other=0.0
        )
        new_maximum = tl.maximum(maximum, tl.max(part_lse, 0))
        shift = tl.where(new_maximum == float("-inf"), 0.0, new_maximum)
        weight = tl.exp2(part_lse - shift[None, :])
        decay = tl.exp2(maximum - shift)
        total = total * decay + tl.sum(weight, 0)
        acc = acc * decay[:, None] + tl.sum(weight[:, :, None] * part_out, 0)
        maximum = new_maximum
    seen = total > 0
    acc *= tl.where(seen, 1.0 / tl.where(seen, total, 1.0), 0.0)[:, None]
    at = sequence.to(tl.int64) * ROWS + row
    tl.store(out + at[:, None] * LATENT + column[None, :], acc.to(out.dtype.element_ty), mask=is_row[:, None])
    if tl.program_id(2) == 0:
        row_lse = tl.where(seen, maximum + tl.log2(tl.where(seen, total, 1.0)), float("-inf"))
        tl.store(lse + at, row_lse * LN_2, mask=is_row)


def attend(
    q: torch.Tensor, kv_cache: torch.Tensor, block_table: torch.Tensor, seq_lens: torch.Tensor, state: SplitKVPlan
) -> Outputs:
    """Two launches; see `_split_kv_plan.plan` for the choice of every block size. Shapes as in problem.py."""
    batch, seq_len_q, num_heads, _ = q.shape
    rows = seq_len_q * num_heads
    out = q.new_empty((batch, seq_len_q, num_heads, KV_LORA_RANK))
    lse = q.new_empty((batch, seq_len_q, num_heads), dtype=torch.float32)
    partial_out = q.new_empty((state.num_parts, 2, rows, KV_LORA_RANK), dtype=torch.float32)
    partial_lse = q.new_empty((state.num_parts, 2, rows), dtype=torch.float32)
    interpreted = q.is_cpu
    dependent_launch = state.dependent_launch and not interpreted
    shared = {
        "LATENT": KV_LORA_RANK,
        "BATCH_BLOCK": triton.next_power_of_2(batch),
        "BLOCK_N": state.block_n,
        "NUM_PARTS": state.num_parts,
        "MIN_TILES": state.min_tiles,
        "DEPENDENT_LAUNCH": dependent_launch,
    }
    decode, decode_options = _first_kernel(state, kv_cache, interpreted)
    decode[(triton.cdiv(rows, state.block_h), state.num_parts)](
        q, kv_cache, block_table, seq_lens, out, lse, partial_out, partial_lse,
        batch, block_table.shape[1], state.softmax_scale * LOG2_E,
        NUM_HEADS=num_heads, SEQ_LEN_Q=seq_len_q, PAGE_SIZE=kv_cache.shape[1], ROPE=QK_ROPE_HEAD_DIM,
        BLOCK_H=state.block_h, num_warps=state.num_warps, **shared, **decode_options,
    )  # fmt: skip
    _combine[(batch, triton.cdiv(rows, state.combine_rows), KV_LORA_RANK // state.combine_columns)](
        seq_lens, out, lse, partial_out, partial_lse, batch,
        ROWS=rows, BLOCK_R=state.combine_rows, BLOCK_D=state.combine_columns, BLOCK_P=state.combine_parts,
        num_warps=4, **shared, **({"launch_pdl": True} if dependent_launch else {}),
    )  # fmt: skip
    return {"out": out, "lse": lse}


def _first_kernel(state: SplitKVPlan, kv_cache: torch.Tensor, interpreted: bool) -> tuple[Any, dict[str, Any]]:
    """The kernel that attends, and what it alone takes. Triton's interpreter runs no Gluon: it gets `_decode`."""
    if state.hopper and not interpreted:
        from ._split_kv_hopper import decode_hopper
        from ._split_kv_hopper_loads import has_whole_tiles, in_tiles

        return decode_hopper, {
            "cache_halves": in_tiles(kv_cache, KV_LORA_RANK // 2), "cache_ropes": in_tiles(kv_cache, QK_ROPE_HEAD_DIM),
            "TMA": has_whole_tiles(kv_cache),
        }  # fmt: skip
    return _decode, {"STAGES": state.num_stages, **state.backend_options}
