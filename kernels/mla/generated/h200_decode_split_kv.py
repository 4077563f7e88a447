# SPDX-License-Identifier: Apache-2.0
# Written by kernelgate generate from kernels/mla/triton_split_kv.py.
# How, and its table of choices: h200_decode_split_kv.json
"""MLA decode in Triton: split-KV over equal shares of all tokens, then combine.

With q = [q_latent | q_rope], a cache row c = [latent | rope] and the softmax scale a:

    out = softmax(a * q . c^T) . latent        lse = ln sum exp(a * q . c^T)

Queries of one sequence are rows, `seq_len_q * num_heads` of them, because all share one latent head. A program owns a
block of rows and walks over tiles of tokens. A tile is loaded once: as K for the scores and, its first 512 columns, as
V. The tiles of all sequences are laid end to end and cut into equal parts, one a program; every program finds its part
from `seq_lens` on the device. A sequence that lies within one part is written at once. Of the others each part writes a
partial result, divided by its own softmax sum, and `_combine` weighs them by their log-sum-exp, in base 2:

    out = sum_i 2^(lse_i - m) out_i / sum_i 2^(lse_i - m)        m = max_i lse_i
"""

from __future__ import annotations

import functools
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton
import triton.language as tl
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import async_copy
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, warpgroup_mma, warpgroup_mma_wait
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from ...device import Device
from ...kernel import Kernel, Origin
from ...problem import Inputs, Outputs, Problem
from ..problem import MLADecode

KV_LORA_RANK = 512
"""Of the latent: what a token's keys (but for their rope part) and values are projections of."""


@dataclass(frozen=True)
class Tile:
    """The shape of one program of the first kernel, and all else that is chosen rather than derived."""

    block_h: int
    """Rows (query, head)."""
    block_n: int
    """Tokens in a tile."""
    num_warps: int
    num_stages: int
    programs_per_sm: int = 1
    min_tokens: int = 128
    """Least tokens in a part: fewer cost more to combine than a further program saves."""
    hopper: bool = False
    """Whether it is the kernel in `_split_kv_hopper`."""


@dataclass(frozen=True)
class SplitKVPlan:
    """What both kernels are launched with."""

    softmax_scale: float
    block_h: int
    block_n: int
    num_warps: int
    num_stages: int
    hopper: bool
    num_parts: int
    """Equal parts that the tiles of all sequences are cut into."""
    min_tiles: int
    """Least tiles in a part."""
    combine_rows: int
    combine_columns: int
    combine_parts: int
    """Partial results that one step of the combination reads at once."""


def plan(problem: Problem, plan_inputs: Inputs, device: Device) -> SplitKVPlan:
    """Every launch decision, from shapes alone: `plan_inputs` may be meta tensors."""
    assert isinstance(problem, MLADecode)
    return plan_from(problem, choice_for(problem), device)


def plan_from(problem: MLADecode, tile: Tile, device: Device) -> SplitKVPlan:
    """What follows from a choice."""
    row_blocks = math.ceil(problem.seq_len_q * problem.num_heads / tile.block_h)
    min_tiles = max(1, tile.min_tokens // tile.block_n)
    most_tiles = problem.batch * math.ceil(problem.max_seq_len / tile.block_n)
    num_parts = max(1, device.num_sms * tile.programs_per_sm // row_blocks)
    num_parts = min(num_parts, math.ceil(most_tiles / min_tiles))
    combine_parts = min(128, max(4, _next_power_of_2(num_parts // problem.batch)))
    combine_columns = min(KV_LORA_RANK, 8192 // combine_parts)
    return SplitKVPlan(
        softmax_scale=problem.softmax_scale,
        block_h=tile.block_h,
        block_n=tile.block_n,
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
        hopper=tile.hopper,
        num_parts=num_parts,
        min_tiles=min_tiles,
        combine_rows=8192 // (combine_parts * combine_columns),
        combine_columns=combine_columns,
        combine_parts=combine_parts,
    )


def facts(problem: MLADecode) -> dict[str, int | bool]:
    """What a table of choices tells problems apart by."""
    return {
        "is_fp8": problem.kv_dtype != problem.dtype,
        "rows": problem.seq_len_q * problem.num_heads,
        "tokens": problem.batch * problem.max_seq_len,
    }


CHOSEN = ("block_h", "block_n", "num_warps", "num_stages", "programs_per_sm", "min_tokens", "hopper")


@functools.cache
def _table() -> tuple[tuple[dict[str, Any], Tile], ...]:
    """(when, what is chosen then), the first that matches counts; read once, from the manifest beside this file."""
    manifest = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
    rows = manifest["dispatch"]
    return tuple((row["when"], Tile(**{name: row["use"][name] for name in CHOSEN})) for row in rows)


def _matches(when: dict[str, Any], found: dict[str, Any]) -> bool:
    """A fact is given as a value, or as a range, `min` and `max` included."""
    for name, wanted in when.items():
        low, high = (wanted.get("min"), wanted.get("max")) if isinstance(wanted, dict) else (wanted, wanted)
        if (low is not None and found[name] < low) or (high is not None and found[name] > high):
            return False
    return True


def choice_for(problem: MLADecode) -> Tile:
    """The choice of the table's first row that matches."""
    found = facts(problem)
    return next(chosen for when, chosen in _table() if _matches(when, found))


def _next_power_of_2(n: int) -> int:
    return 1 << max(0, n - 1).bit_length()


# Renamed after Triton 3.6.
async_load = getattr(async_copy, "async_load", None) or async_copy.async_copy_global_to_shared
barrier = getattr(gl, "barrier", None) or gl.thread_barrier

# Layouts of a program's 8 warps. Both products have 4 warps along the 64 rows and 2 along their columns.
ACC = gl.constexpr(gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[4, 2], instr_shape=[16, 256, 16]))
SCORES = gl.constexpr(gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[4, 2], instr_shape=[16, 32, 16]))
COPY = gl.constexpr(gl.BlockedLayout([1, 8], [4, 8], [8, 1], [1, 0]))  # 16 bytes a thread, 128 a row
SHARED = gl.constexpr(gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=2))
LINE = gl.constexpr(gl.BlockedLayout([1], [32], [8], [0]))

LN_2 = gl.constexpr(0.6931471805599453)


@gluon.jit
def _add(a, b):
    return a + b


@gluon.jit
def _load_pages(block_table_row, first_token, limit, PAGE_SIZE: gl.constexpr):
    """Page of every token of a tile [BLOCK_N], in the layout of the copy."""
    token = first_token + gl.arange(0, 64, layout=gl.SliceLayout(1, COPY))
    return gl.load(block_table_row + token // PAGE_SIZE, mask=token < limit, other=0)


@gluon.jit
def _load_tile(kv_cache, pages, first_token, limit, latent, rope, PAGE_SIZE: gl.constexpr):
    """Start the copy of a tile to shared memory; what lies past `limit` becomes 0."""
    token = first_token + gl.arange(0, 64, layout=gl.SliceLayout(1, COPY))
    slot = pages.to(gl.int64) * PAGE_SIZE + token % PAGE_SIZE
    row = (kv_cache + slot * 576)[:, None]
    used = (token < limit)[:, None]
    async_load(latent, row + gl.arange(0, 512, layout=gl.SliceLayout(0, COPY))[None, :], mask=used)
    async_load(rope, row + (512 + gl.arange(0, 64, layout=gl.SliceLayout(0, COPY)))[None, :], mask=used)
    async_copy.commit_group()


@gluon.jit
def _start_scores(q_latent, q_rope, latent, rope):
    """Start Q.K of a tile: two groups of asynchronous products."""
    zeros = gl.full([q_latent.shape[0], latent.shape[0]], 0.0, gl.float32, SCORES)
    scores = warpgroup_mma(q_latent, latent.permute((1, 0)), zeros, use_acc=False, is_async=True)
    return warpgroup_mma(q_rope, rope.permute((1, 0)), scores, is_async=True)


@gluon.jit
def _softmax(scores, first_token, last_seen, maximum, total, acc, p, scale_log2):
    """One online-softmax step in base 2; probabilities go to `p`, and `total` [rows, tokens] is summed at the end."""
    token = first_token + gl.arange(0, scores.shape[1], layout=gl.SliceLayout(0, SCORES))
    scores = gl.where(token[None, :] <= last_seen[:, None], scores * scale_log2, float("-inf"))
    new_maximum = gl.maximum(maximum, gl.max(scores, 1))
    shift = gl.where(new_maximum == float("-inf"), 0.0, new_maximum)  # a row that has seen nothing yet
    probabilities = gl.exp2(scores - shift[:, None])
    decay = gl.exp2(maximum - shift)
    p.store(probabilities.to(p.dtype))
    total = total * decay[:, None] + probabilities
    acc = acc * gl.convert_layout(decay, gl.SliceLayout(1, ACC))[:, None]
    return new_maximum, total, acc


@gluon.jit
def _start_loads(
    q_rows,
    is_row,
    kv_cache,
    block_table_row,
    first_token,
    limit,
    q_latent,
    q_rope,
    latent,
    rope,
    PAGE_SIZE: gl.constexpr,
):
    """Start the copies of Q and of the first two tiles of a sequence: two groups."""
    async_load(q_latent, q_rows + gl.arange(0, 512, layout=gl.SliceLayout(0, COPY))[None, :], mask=is_row)
    async_load(q_rope, q_rows + (512 + gl.arange(0, 64, layout=gl.SliceLayout(0, COPY)))[None, :], mask=is_row)
    for i in gl.static_range(2):
        token = first_token + i * 64
        pages = _load_pages(block_table_row, token, limit, PAGE_SIZE)
        _load_tile(kv_cache, pages, token, limit, latent.index(i), rope.index(i), PAGE_SIZE)


@gluon.jit
def _attend(
    kv_cache,
    block_table_row,
    token,
    limit,
    last_seen,
    scale_log2,
    q_latent,
    q_rope,
    latent,
    rope,
    p,
    PAGE_SIZE: gl.constexpr,
):
    """Attention of BLOCK_H rows over tokens [token, limit), after `_start_loads`: unscaled out, maximum, sum."""
    pages = _load_pages(block_table_row, token + 128, limit, PAGE_SIZE)
    maximum = gl.full([64], float("-inf"), gl.float32, gl.SliceLayout(1, SCORES))
    total = gl.zeros([64, 64], gl.float32, SCORES)
    acc = gl.zeros([64, 512], gl.float32, ACC)
    async_copy.wait_group(1)
    fence_async_shared()
    barrier()
    pending = _start_scores(q_latent, q_rope, latent.index(0), rope.index(0))
    buffer = 0
    for _ in range(gl.cdiv(limit - token, 64) - 1):
        scores = warpgroup_mma_wait(0, deps=[pending])
        maximum, total, acc = _softmax(scores, token, last_seen, maximum, total, acc, p, scale_log2)
        fence_async_shared()
        barrier()
        product = warpgroup_mma(p, latent.index(buffer), acc, is_async=True)
        async_copy.wait_group(0)
        fence_async_shared()
        barrier()
        pending = _start_scores(q_latent, q_rope, latent.index(1 - buffer), rope.index(1 - buffer))
        acc = warpgroup_mma_wait(2, deps=[product])
        barrier()  # both warpgroups have read the buffer, and P
        at = token + 128
        _load_tile(kv_cache, pages, at, limit, latent.index(buffer), rope.index(buffer), PAGE_SIZE)
        pages = _load_pages(block_table_row, at + 64, limit, PAGE_SIZE)
        token += 64
        buffer = 1 - buffer
    scores = warpgroup_mma_wait(0, deps=[pending])
    maximum, total, acc = _softmax(scores, token, last_seen, maximum, total, acc, p, scale_log2)
    fence_async_shared()
    barrier()
    acc = warpgroup_mma(p, latent.index(buffer), acc)
    async_copy.wait_group(0)  # of tiles past the end: they write zeros
    barrier()
    return acc, maximum, gl.sum(total, 1)


@gluon.jit
def _normalise(acc, maximum, total):
    """(out, lse in base 2); a row that has seen nothing gets 0 and -inf."""
    seen = total > 0
    scale = gl.where(seen, 1.0 / gl.where(seen, total, 1.0), 0.0)
    row_lse = gl.where(seen, maximum + gl.log2(gl.where(seen, total, 1.0)), float("-inf"))
    return acc * gl.convert_layout(scale, gl.SliceLayout(1, ACC))[:, None], row_lse


@gluon.jit
def _store_rows(out, lse, index, row_start, out_values, lse_values, ROWS: gl.constexpr):
    """Rows of block `index` of [*, ROWS, 512] and [*, ROWS]."""
    base = index.to(gl.int64) * ROWS
    row = row_start + gl.arange(0, 64, layout=gl.SliceLayout(1, SCORES))
    gl.store(lse + base + row, lse_values, mask=row < ROWS)
    row = row_start + gl.arange(0, 64, layout=gl.SliceLayout(1, ACC))
    column = gl.arange(0, 512, layout=gl.SliceLayout(0, ACC))
    pointers = (out + (base + row) * 512)[:, None] + column[None, :]
    gl.store(pointers, out_values.to(out.dtype.element_ty), mask=(row < ROWS)[:, None])


@gluon.jit
def _find_part(seq_lens, batch, part, BATCH_BLOCK: gl.constexpr, NUM_PARTS: gl.constexpr, MIN_TILES: gl.constexpr):
    """Its first tile and its end among all tiles, the sequence that it begins in, and that sequence's first tile."""
    index = gl.arange(0, BATCH_BLOCK, layout=LINE)
    tiles = gl.cdiv(gl.load(seq_lens + index, mask=index < batch, other=0), 64)
    ends = gl.associative_scan(tiles, 0, _add)
    total_tiles = gl.sum(tiles, 0)
    part_tiles = gl.maximum(gl.cdiv(total_tiles, NUM_PARTS), MIN_TILES)
    part_start = part * part_tiles
    part_end = gl.minimum(part_start + part_tiles, total_tiles)
    sequence = gl.sum((ends <= part_start).to(gl.int32), 0)
    start = gl.sum(gl.where(ends <= part_start, tiles, 0), 0)
    return part_start, part_end, sequence, start


@gluon.jit
def _next_sequence(seq_lens, sequence):
    """The next one that holds a token; there must be one."""
    sequence += 1
    seq_len = gl.load(seq_lens + sequence)
    while seq_len == 0:
        sequence += 1
        seq_len = gl.load(seq_lens + sequence)
    return sequence, seq_len


@gluon.jit
def decode_hopper(
    q,
    kv_cache,
    block_table,
    seq_lens,
    out,
    lse,
    partial_out,
    partial_lse,
    batch,
    max_pages,
    scale_log2,
    NUM_HEADS: gl.constexpr,
    SEQ_LEN_Q: gl.constexpr,
    PAGE_SIZE: gl.constexpr,
    BATCH_BLOCK: gl.constexpr,
    NUM_PARTS: gl.constexpr,
    MIN_TILES: gl.constexpr,
    DEPENDENT_LAUNCH: gl.constexpr,
):
    """As `_decode`: program (i, p) owns rows [i * BLOCK_H, ..) and part p of all tiles."""
    if DEPENDENT_LAUNCH:
        gdc_launch_dependents()
    ROWS: gl.constexpr = SEQ_LEN_Q * NUM_HEADS
    dtype: gl.constexpr = q.dtype.element_ty
    q_latent = gl.allocate_shared_memory(dtype, [64, 512], SHARED)
    q_rope = gl.allocate_shared_memory(dtype, [64, 64], SHARED)
    latent = gl.allocate_shared_memory(dtype, [2, 64, 512], SHARED)
    rope = gl.allocate_shared_memory(dtype, [2, 64, 64], SHARED)
    p = gl.allocate_shared_memory(dtype, [64, 64], SHARED)

    part = gl.program_id(1)
    part_start, part_end, sequence, start = _find_part(seq_lens, batch, part, BATCH_BLOCK, NUM_PARTS, MIN_TILES)
    row_start = gl.program_id(0) * 64
    copy_row = row_start + gl.arange(0, 64, layout=gl.SliceLayout(1, COPY))
    is_row = (copy_row < ROWS)[:, None]
    row = row_start + gl.arange(0, 64, layout=gl.SliceLayout(1, SCORES))
    q_rows = (q + copy_row * 576)[:, None]
    q_stride: gl.constexpr = ROWS * 576
    seq_len = gl.load(seq_lens + sequence, mask=start < part_end, other=0)
    token = (part_start - start) * 64
    limit = gl.minimum(seq_len, (part_end - start) * 64)
    if start < part_end:
        _start_loads(
            q_rows + sequence.to(gl.int64) * q_stride,
            is_row,
            kv_cache,
            block_table + sequence.to(gl.int64) * max_pages,
            token,
            limit,
            q_latent,
            q_rope,
            latent,
            rope,
            PAGE_SIZE,
        )
    while start < part_end:
        acc, maximum, total = _attend(
            kv_cache,
            block_table + sequence.to(gl.int64) * max_pages,
            token,
            limit,
            seq_len - SEQ_LEN_Q + row // NUM_HEADS,
            scale_log2,
            q_latent,
            q_rope,
            latent,
            rope,
            p,
            PAGE_SIZE,
        )
        this, this_start = sequence, start
        start += gl.cdiv(seq_len, 64)
        if start < part_end:  # the loads of the next sequence run beside the stores of this one
            sequence, seq_len = _next_sequence(seq_lens, sequence)
            token = 0
            limit = gl.minimum(seq_len, (part_end - start) * 64)
            _start_loads(
                q_rows + sequence.to(gl.int64) * q_stride,
                is_row,
                kv_cache,
                block_table + sequence.to(gl.int64) * max_pages,
                token,
                limit,
                q_latent,
                q_rope,
                latent,
                rope,
                PAGE_SIZE,
            )
        acc, row_lse = _normalise(acc, maximum, total)
        if (this_start >= part_start) & (start <= part_end):
            _store_rows(out, lse, this, row_start, acc, row_lse * LN_2, ROWS)
        else:
            slot = part * 2 + (this_start >= part_start).to(gl.int32)
            _store_rows(partial_out, partial_lse, slot, row_start, acc, row_lse, ROWS)


LOG2_E = math.log2(math.e)
LN_2_KV = tl.constexpr(math.log(2))


@triton.jit
def _tiles_of_sequences(seq_lens, batch, BATCH_BLOCK: tl.constexpr, BLOCK_N: tl.constexpr):
    """Tiles in every sequence [BATCH_BLOCK], 0 past the batch."""
    sequence = tl.arange(0, BATCH_BLOCK)
    return tl.cdiv(tl.load(seq_lens + sequence, mask=sequence < batch, other=0), BLOCK_N)


@triton.jit
def _tiles_of_a_part(total_tiles, NUM_PARTS: tl.constexpr, MIN_TILES: tl.constexpr):
    return tl.maximum(tl.cdiv(total_tiles, NUM_PARTS), MIN_TILES)


@triton.jit
def _load_pages_kv(block_table_row, first_token, seq_len, PAGE_SIZE: tl.constexpr, BLOCK_N: tl.constexpr):
    """Pages of a tile: one number where a tile lies within a page, else one a token."""
    token = first_token if PAGE_SIZE % BLOCK_N == 0 else first_token + tl.arange(0, BLOCK_N)
    return tl.load(block_table_row + token // PAGE_SIZE, mask=token < seq_len, other=0)


@triton.jit
def _attend_kv(
    q_latent,
    q_rope,
    kv_cache,
    block_table_row,
    first_tile,
    last_tile,
    seq_len,
    last_seen,
    scale_log2,
    PAGE_SIZE: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_N: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Attention of BLOCK_H rows over tiles [first_tile, last_tile): unscaled out [BLOCK_H, 512], maximum, sum."""
    maximum = tl.full([BLOCK_H], float("-inf"), tl.float32)  # of the scores in base 2
    total = tl.zeros([BLOCK_H], tl.float32)
    acc = tl.zeros([BLOCK_H, 512], tl.float32)
    latent_column, rope_column = tl.arange(0, 512), 512 + tl.arange(0, 64)
    # The pages of the next tile are loaded one tile ahead: an address that waits for no load lets the tile's own
    # loads be pipelined.
    pages = _load_pages_kv(block_table_row, first_tile * BLOCK_N, seq_len, PAGE_SIZE, BLOCK_N)
    for tile in tl.range(first_tile, last_tile, num_stages=STAGES):
        token = tile * BLOCK_N + tl.arange(0, BLOCK_N)
        slot = pages.to(tl.int64) * PAGE_SIZE + token % PAGE_SIZE  # [BLOCK_N]; caches exceed 2^31 elements
        row = kv_cache + slot[:, None] * 576
        used = (token < seq_len)[:, None]  # stale tokens may hold anything, NaN too
        latent = tl.load(row + latent_column[None, :], mask=used, other=0.0).to(q_latent.dtype)
        rope = tl.load(row + rope_column[None, :], mask=used, other=0.0).to(q_latent.dtype)
        pages = _load_pages_kv(block_table_row, (tile + 1) * BLOCK_N, seq_len, PAGE_SIZE, BLOCK_N)

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
def _store_rows_kv(out, lse, index, row, out_values, lse_values, ROWS: tl.constexpr):
    """Rows of block `index` of [*, ROWS, 512] and [*, ROWS]."""
    at = index.to(tl.int64) * ROWS + row
    tl.store(lse + at, lse_values, mask=row < ROWS)
    pointers = out + at[:, None] * 512 + tl.arange(0, 512)[None, :]
    tl.store(pointers, out_values.to(out.dtype.element_ty), mask=(row < ROWS)[:, None])


@triton.jit
def _decode(
    q,
    kv_cache,
    block_table,
    seq_lens,
    out,
    lse,
    partial_out,
    partial_lse,
    batch,
    max_pages,
    scale_log2,
    NUM_HEADS: tl.constexpr,
    SEQ_LEN_Q: tl.constexpr,
    PAGE_SIZE: tl.constexpr,
    BATCH_BLOCK: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_N: tl.constexpr,
    NUM_PARTS: tl.constexpr,
    MIN_TILES: tl.constexpr,
    STAGES: tl.constexpr,
    DEPENDENT_LAUNCH: tl.constexpr,
):
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
    latent_column, rope_column = tl.arange(0, 512), 512 + tl.arange(0, 64)
    while start < part_end:
        seq_len = tl.load(seq_lens + sequence)
        end = start + tl.cdiv(seq_len, BLOCK_N)
        if end > start:
            q_row = q + (sequence.to(tl.int64) * ROWS + row)[:, None] * 576
            q_latent = tl.load(q_row + latent_column[None, :], mask=is_row[:, None], other=0.0)
            q_rope = tl.load(q_row + rope_column[None, :], mask=is_row[:, None], other=0.0)
            acc, maximum, total = _attend_kv(
                q_latent,
                q_rope,
                kv_cache,
                block_table + sequence.to(tl.int64) * max_pages,
                tl.maximum(part_start, start) - start,
                tl.minimum(part_end, end) - start,
                seq_len,
                seq_len - SEQ_LEN_Q + row // NUM_HEADS,
                scale_log2,
                PAGE_SIZE,
                BLOCK_H,
                BLOCK_N,
                STAGES,
            )
            seen = total > 0
            acc *= tl.where(seen, 1.0 / tl.where(seen, total, 1.0), 0.0)[:, None]
            row_lse = tl.where(seen, maximum + tl.log2(tl.where(seen, total, 1.0)), float("-inf"))
            if (start >= part_start) & (end <= part_end):
                _store_rows_kv(out, lse, sequence, row, acc, row_lse * LN_2_KV, ROWS)
            else:
                # Slot 0 of a part: the sequence that it continues. Slot 1: the one that it begins and leaves open.
                slot = part * 2 + (start >= part_start).to(tl.int32)
                _store_rows_kv(partial_out, partial_lse, slot, row, acc, row_lse, ROWS)
        start = end
        sequence += 1


@triton.jit
def _combine(
    seq_lens,
    out,
    lse,
    partial_out,
    partial_lse,
    batch,
    ROWS: tl.constexpr,
    BATCH_BLOCK: tl.constexpr,
    BLOCK_N: tl.constexpr,
    NUM_PARTS: tl.constexpr,
    MIN_TILES: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_P: tl.constexpr,
    DEPENDENT_LAUNCH: tl.constexpr,
):
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
        part_out = tl.load(partial_out + at[:, :, None] * 512 + column[None, None, :], mask=mask[:, :, None], other=0.0)
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
    tl.store(out + at[:, None] * 512 + column[None, :], acc.to(out.dtype.element_ty), mask=is_row[:, None])
    if tl.program_id(2) == 0:
        row_lse = tl.where(seen, maximum + tl.log2(tl.where(seen, total, 1.0)), float("-inf"))
        tl.store(lse + at, row_lse * LN_2_KV, mask=is_row)


def attend(
    q: torch.Tensor, kv_cache: torch.Tensor, block_table: torch.Tensor, seq_lens: torch.Tensor, state: SplitKVPlan
) -> Outputs:
    """Two launches; see `plan` for the choice of every block size. Shapes as in problem.py."""
    batch, seq_len_q, num_heads, _ = q.shape
    rows = seq_len_q * num_heads
    out = q.new_empty((batch, seq_len_q, num_heads, KV_LORA_RANK))
    lse = q.new_empty((batch, seq_len_q, num_heads), dtype=torch.float32)
    partial_out = q.new_empty((state.num_parts, 2, rows, KV_LORA_RANK), dtype=torch.float32)
    partial_lse = q.new_empty((state.num_parts, 2, rows), dtype=torch.float32)
    interpreted = q.is_cpu
    dependent_launch = not interpreted
    if state.hopper and not interpreted:
        decode_hopper[(triton.cdiv(rows, 64), state.num_parts)](
            q,
            kv_cache,
            block_table,
            seq_lens,
            out,
            lse,
            partial_out,
            partial_lse,
            batch,
            block_table.shape[1],
            state.softmax_scale * LOG2_E,
            NUM_HEADS=num_heads,
            SEQ_LEN_Q=seq_len_q,
            PAGE_SIZE=kv_cache.shape[1],
            num_warps=8,
            BATCH_BLOCK=triton.next_power_of_2(batch),
            NUM_PARTS=state.num_parts,
            MIN_TILES=state.min_tiles,
            DEPENDENT_LAUNCH=dependent_launch,
        )
    else:
        _decode[(triton.cdiv(rows, state.block_h), state.num_parts)](
            q,
            kv_cache,
            block_table,
            seq_lens,
            out,
            lse,
            partial_out,
            partial_lse,
            batch,
            block_table.shape[1],
            state.softmax_scale * LOG2_E,
            NUM_HEADS=num_heads,
            SEQ_LEN_Q=seq_len_q,
            PAGE_SIZE=kv_cache.shape[1],
            BLOCK_H=state.block_h,
            num_warps=state.num_warps,
            BATCH_BLOCK=triton.next_power_of_2(batch),
            BLOCK_N=state.block_n,
            NUM_PARTS=state.num_parts,
            MIN_TILES=state.min_tiles,
            DEPENDENT_LAUNCH=dependent_launch,
            STAGES=state.num_stages,
        )
    _combine[(batch, triton.cdiv(rows, state.combine_rows), KV_LORA_RANK // state.combine_columns)](
        seq_lens,
        out,
        lse,
        partial_out,
        partial_lse,
        batch,
        ROWS=rows,
        BLOCK_R=state.combine_rows,
        BLOCK_D=state.combine_columns,
        BLOCK_P=state.combine_parts,
        num_warps=4,
        BATCH_BLOCK=triton.next_power_of_2(batch),
        BLOCK_N=state.block_n,
        NUM_PARTS=state.num_parts,
        MIN_TILES=state.min_tiles,
        DEPENDENT_LAUNCH=dependent_launch,
        **({"launch_pdl": True} if dependent_launch else {}),
    )
    return {"out": out, "lse": lse}


def run(inputs: Inputs, state: SplitKVPlan) -> Outputs:
    """Two launches: attention over equal parts of all tokens, and the combination of partial results."""
    return attend(inputs["q"], inputs["kv_cache"], inputs["block_table"], inputs["seq_lens"], state)


def supports(problem: Problem, device: Device) -> str | None:
    """Its choices are for one architecture."""
    if device.kind != "cpu" and device.arch != "sm_90":
        return f"it was generated for sm_90, and this device is {device.arch}"
    return None


KERNEL = Kernel(
    origin=Origin.GENERATED,
    tasks=("decode",),
    run=run,
    plan=plan,
    requires=("triton",),
    uses_triton=True,
    supports=supports,
)
