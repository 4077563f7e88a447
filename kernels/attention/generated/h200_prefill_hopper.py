# SPDX-License-Identifier: Apache-2.0
# Written by kernelgate generate from kernels/attention/prefill_gluon_hopper.py.
# How, and its table of choices: h200_prefill_hopper.json
"""Attention prefill in Gluon for Hopper: two warpgroups compute, a warp fetches.

With the softmax scale a, over the keys that a query sees:

    out = softmax(a * q . k^T) . v        lse = ln sum exp(a * q . k^T)

A persistent program walks over its items, 128 queries of one head each. `plan` lists them: a few KV heads at a time, so
that the keys and values of those at work stay in L2, of these the heaviest first, each for the program that would be
free first. A program's producer, one warp, copies Q, K and V tiles by TMA into rings of shared memory. Its two
consumers, a warpgroup each, own 64 of the queries: a consumer starts the scores of a tile and, behind them, P.V of the
tile before; it works on the softmax of these scores while P.V runs, as in FlashAttention-3 (arXiv 2407.08608). Tiles go
from the last to the first: those behind a mask come first, those of a window's edge last.

Each buffer has two barriers: `full`, which TMA completes, and `empty`, at which both consumers arrive. A barrier's
phase follows from a count of the tiles (for Q of the items) that a partition has had.
"""

from __future__ import annotations

import functools
import heapq
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import torch
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, tma, warpgroup_mma, warpgroup_mma_wait

from ...device import Device
from ...kernel import Kernel, Origin
from ...lengths import planned_lengths
from ...problem import Inputs, Outputs, Problem
from ..prefill_triton_flash import KERNEL as FALLBACK
from ..problem import AttentionPrefill

# Renamed after Triton 3.6.
tma_load = getattr(tma, "async_load", None) or tma.async_copy_global_to_shared
barrier = getattr(gl, "barrier", None) or gl.thread_barrier

LN_2 = gl.constexpr(0.6931471805599453)
ROWS = gl.constexpr(64)
"""Queries of one consumer."""
ITEM_FIELDS = gl.constexpr(9)
"""Columns of `items`; see `Item`."""


@gluon.jit
def _find_item(items, turn):
    """Of this program's turn: row of q, queries, row of k, keys, position, tiles, head. Zeros where there is none."""
    row = items + (turn * gl.num_programs(0) + gl.program_id(0)) * ITEM_FIELDS
    first_q = gl.load(row)
    num_queries = gl.load(row + 1)
    first_kv = gl.load(row + 2)
    num_keys = gl.load(row + 3)
    position = gl.load(row + 4)
    right = gl.load(row + 5)
    whole = gl.load(row + 6)
    left = gl.load(row + 7)
    head = gl.load(row + 8)
    return first_q, num_queries, first_kv, num_keys, position, right, whole, left, head


@gluon.jit
def _last_key(num_keys, position, BLOCK_N: gl.constexpr, CAUSAL: gl.constexpr):
    """First key of the last tile that an item sees."""
    end = num_keys
    if CAUSAL:
        end = gl.minimum(num_keys, position + 2 * ROWS)
    return (end - 1) // BLOCK_N * BLOCK_N


@gluon.jit
def _produce(
    q,
    k,
    v,
    items,
    num_turns,
    q_tile,
    k_ring,
    v_ring,
    q_full,
    q_empty,
    k_full,
    k_empty,
    v_full,
    v_empty,
    NUM_HEADS: gl.constexpr,
    NUM_KV_HEADS: gl.constexpr,
    BLOCK_N: gl.constexpr,
    HEAD_DIM: gl.constexpr,
    STAGES: gl.constexpr,
    CAUSAL: gl.constexpr,
):
    """The producer: one warp."""
    QK_DIM: gl.constexpr = HEAD_DIM + 0
    had_items, had_tiles = 0, 0
    for turn in range(num_turns):
        first_q, _num_queries, first_kv, num_keys, position, right, whole, left, head = _find_item(items, turn)
        num_tiles = right + whole + left
        if num_tiles > 0:
            mbarrier.wait(q_empty, (had_items & 1) ^ 1)
            mbarrier.expect(q_full, 2 * ROWS * QK_DIM * 2)
            tma_load(q, [first_q, head * QK_DIM], q_full, q_tile.index(0))
            tma_load(q, [first_q + ROWS, head * QK_DIM], q_full, q_tile.index(1))
            had_items += 1
            row = first_kv + _last_key(num_keys, position, BLOCK_N, CAUSAL)
            kv_head = head // (NUM_HEADS // NUM_KV_HEADS)
            for _tile in range(num_tiles):
                stage = had_tiles % STAGES
                phase = (had_tiles // STAGES) & 1
                mbarrier.wait(k_empty.index(stage), phase ^ 1)
                mbarrier.expect(k_full.index(stage), BLOCK_N * QK_DIM * 2)
                tma_load(k, [row, kv_head * QK_DIM], k_full.index(stage), k_ring.index(stage))
                mbarrier.wait(v_empty.index(stage), phase ^ 1)
                mbarrier.expect(v_full.index(stage), BLOCK_N * HEAD_DIM * 2)
                tma_load(v, [row, kv_head * HEAD_DIM], v_full.index(stage), v_ring.index(stage))
                row -= BLOCK_N
                had_tiles += 1


@gluon.jit
def _start_scores(q_tile, k_ring, stage, BLOCK_N: gl.constexpr, SCORES: gl.constexpr):
    """Start Q.K of a tile: one group of asynchronous products, or two."""
    zeros = gl.full([ROWS, BLOCK_N], 0.0, gl.float32, SCORES)
    return warpgroup_mma(q_tile, k_ring.index(stage).permute((1, 0)), zeros, use_acc=False, is_async=True)


@gluon.jit
def _softmax(
    scores,
    key,
    position,
    num_keys,
    maximum,
    total,
    scale_log2,
    CAUSAL: gl.constexpr,
    WINDOW: gl.constexpr,
    MASKED: gl.constexpr,
):
    """One online-softmax step in base 2: probabilities, decay of what came before, maximum, total."""
    layout: gl.constexpr = scores.type.layout
    if MASKED:
        keys = (key + gl.arange(0, scores.shape[1], layout=gl.SliceLayout(0, layout)))[None, :]
        visible = keys < num_keys
        if CAUSAL:
            visible = keys <= position[:, None]
        if WINDOW > 0:
            visible = visible & (keys > position[:, None] - WINDOW)
        scores = gl.where(visible, scores, float("-inf"))
    new_maximum = gl.maximum(maximum, gl.max(scores, 1) * scale_log2)
    shift = new_maximum
    if MASKED:
        shift = gl.where(new_maximum == float("-inf"), 0.0, new_maximum)  # a query that has seen nothing yet
    probabilities = gl.exp2(scores * scale_log2 - shift[:, None])
    decay = gl.exp2(maximum - shift)
    return probabilities, decay, new_maximum, total * decay + gl.sum(probabilities, 1)


@gluon.jit
def _steps(
    count,
    acc,
    p,
    maximum,
    total,
    had_tiles,
    key,
    position,
    num_keys,
    scale_log2,
    q_tile,
    k_ring,
    v_ring,
    k_full,
    k_empty,
    v_full,
    v_empty,
    STAGES: gl.constexpr,
    BLOCK_N: gl.constexpr,
    CAUSAL: gl.constexpr,
    WINDOW: gl.constexpr,
    MASKED: gl.constexpr,
    SCORES: gl.constexpr,
    dtype: gl.constexpr,
):
    """`count` tiles: the scores of each beside P.V of the one before it. `p` are its probabilities."""
    LEFT: gl.constexpr = gl.DotOperandLayout(0, acc.type.layout, 2)
    for _tile in range(count):
        stage, phase = had_tiles % STAGES, (had_tiles // STAGES) & 1
        before = (had_tiles - 1) % STAGES
        mbarrier.wait(k_full.index(stage), phase)
        pending = _start_scores(q_tile, k_ring, stage, BLOCK_N, SCORES)
        left = gl.convert_layout(p.to(dtype), LEFT)
        product = warpgroup_mma(left, v_ring.index(before), acc, is_async=True)
        scores = warpgroup_mma_wait(1, deps=[pending])
        barrier()  # all four warps have read K
        mbarrier.arrive(k_empty.index(stage), count=1)
        probabilities, decay, maximum, total = _softmax(
            scores, key, position, num_keys, maximum, total, scale_log2, CAUSAL, WINDOW, MASKED
        )
        # Wanted by the next P.V only; but a loop that polls is what ptxas moves no wait for products across, and it
        # would have them waited for before the softmax.
        mbarrier.wait(v_full.index(stage), phase)
        acc, left = warpgroup_mma_wait(0, deps=[product, left])
        barrier()  # and V
        mbarrier.arrive(v_empty.index(before), count=1)
        acc = acc * gl.convert_layout(decay, gl.SliceLayout(1, acc.type.layout))[:, None]
        p = probabilities
        had_tiles += 1
        key -= BLOCK_N
    return acc, p, maximum, total, had_tiles, key


@gluon.jit
def _attend(
    acc,
    maximum,
    total,
    had_tiles,
    right,
    whole,
    left,
    key,
    position,
    num_keys,
    scale_log2,
    q_tile,
    k_ring,
    v_ring,
    q_empty,
    k_full,
    k_empty,
    v_full,
    v_empty,
    dtype: gl.constexpr,
    STAGES: gl.constexpr,
    BLOCK_N: gl.constexpr,
    CAUSAL: gl.constexpr,
    WINDOW: gl.constexpr,
    SCORES: gl.constexpr,
):
    """All tiles of an item whose Q has come: unscaled output, maximum, sum, and how many tiles there have been."""
    LEFT: gl.constexpr = gl.DotOperandLayout(0, acc.type.layout, 2)
    stage, phase = had_tiles % STAGES, (had_tiles // STAGES) & 1
    mbarrier.wait(k_full.index(stage), phase)
    pending = _start_scores(q_tile, k_ring, stage, BLOCK_N, SCORES)
    scores = warpgroup_mma_wait(0, deps=[pending])
    barrier()
    mbarrier.arrive(k_empty.index(stage), count=1)
    probabilities, _decay, maximum, total = _softmax(
        scores, key, position, num_keys, maximum, total, scale_log2, CAUSAL, WINDOW, True
    )
    p = probabilities
    mbarrier.wait(v_full.index(stage), phase)
    had_tiles += 1
    key -= BLOCK_N
    acc, p, maximum, total, had_tiles, key = _steps(
        right - 1,
        acc,
        p,
        maximum,
        total,
        had_tiles,
        key,
        position,
        num_keys,
        scale_log2,
        q_tile,
        k_ring,
        v_ring,
        k_full,
        k_empty,
        v_full,
        v_empty,
        STAGES,
        BLOCK_N,
        CAUSAL,
        WINDOW,
        True,
        SCORES,
        dtype,
    )
    acc, p, maximum, total, had_tiles, key = _steps(
        whole,
        acc,
        p,
        maximum,
        total,
        had_tiles,
        key,
        position,
        num_keys,
        scale_log2,
        q_tile,
        k_ring,
        v_ring,
        k_full,
        k_empty,
        v_full,
        v_empty,
        STAGES,
        BLOCK_N,
        CAUSAL,
        WINDOW,
        False,
        SCORES,
        dtype,
    )
    if WINDOW > 0:
        acc, p, maximum, total, had_tiles, key = _steps(
            left,
            acc,
            p,
            maximum,
            total,
            had_tiles,
            key,
            position,
            num_keys,
            scale_log2,
            q_tile,
            k_ring,
            v_ring,
            k_full,
            k_empty,
            v_full,
            v_empty,
            STAGES,
            BLOCK_N,
            CAUSAL,
            WINDOW,
            True,
            SCORES,
            dtype,
        )
    barrier()
    mbarrier.arrive(q_empty, count=1)
    before = (had_tiles - 1) % STAGES
    p = gl.convert_layout(p.to(dtype), LEFT)
    acc = warpgroup_mma(p, v_ring.index(before), acc)
    barrier()
    mbarrier.arrive(v_empty.index(before), count=1)
    return acc, maximum, total, had_tiles


@gluon.jit
def _consume(
    items,
    num_turns,
    out,
    lse,
    scale_log2,
    q_tile,
    k_ring,
    v_ring,
    q_full,
    q_empty,
    k_full,
    k_empty,
    v_full,
    v_empty,
    WHO: gl.constexpr,
    NUM_HEADS: gl.constexpr,
    BLOCK_N: gl.constexpr,
    HEAD_DIM: gl.constexpr,
    STAGES: gl.constexpr,
    CAUSAL: gl.constexpr,
    WINDOW: gl.constexpr,
    RETURN_LSE: gl.constexpr,
):
    """Consumer WHO, 0 or 1: a warpgroup with queries [WHO * 64, WHO * 64 + 64) of every item."""
    SCORES: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK_N, 16])
    ACC: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, HEAD_DIM, 16])
    had_items, had_tiles = 0, 0
    for turn in range(num_turns):
        first_q, num_queries, _first_kv, num_keys, first_position, right, whole, left, head = _find_item(items, turn)
        query = WHO * ROWS + gl.arange(0, ROWS, layout=gl.SliceLayout(1, SCORES))
        position = gl.minimum(first_position + query, num_keys - 1)  # past the last query: any
        acc = gl.zeros([ROWS, HEAD_DIM], gl.float32, ACC)
        maximum = gl.full([ROWS], float("-inf"), gl.float32, gl.SliceLayout(1, SCORES))
        total = gl.zeros([ROWS], gl.float32, gl.SliceLayout(1, SCORES))
        if right + whole + left > 0:
            mbarrier.wait(q_full, had_items & 1)
            had_items += 1
            acc, maximum, total, had_tiles = _attend(
                acc,
                maximum,
                total,
                had_tiles,
                right,
                whole,
                left,
                _last_key(num_keys, first_position, BLOCK_N, CAUSAL),
                position,
                num_keys,
                scale_log2,
                q_tile.index(WHO),
                k_ring,
                v_ring,
                q_empty,
                k_full,
                k_empty,
                v_full,
                v_empty,
                out.dtype.element_ty,
                STAGES,
                BLOCK_N,
                CAUSAL,
                WINDOW,
                SCORES,
            )
        _store(acc, maximum, total, out, lse, first_q, head, num_queries, WHO, NUM_HEADS, HEAD_DIM, RETURN_LSE)


@gluon.jit
def _store(
    acc,
    maximum,
    total,
    out,
    lse,
    first_q,
    head,
    num_queries,
    WHO: gl.constexpr,
    NUM_HEADS: gl.constexpr,
    HEAD_DIM: gl.constexpr,
    RETURN_LSE: gl.constexpr,
):
    """Divide by the sum and write; a query that has seen nothing gets 0 and -inf."""
    ACC: gl.constexpr = acc.type.layout
    seen = total > 0
    factor = gl.where(seen, 1.0 / gl.where(seen, total, 1.0), 0.0)
    values = acc * gl.convert_layout(factor, gl.SliceLayout(1, ACC))[:, None]
    query = WHO * ROWS + gl.arange(0, ROWS, layout=gl.SliceLayout(1, ACC))
    at = ((first_q + query).to(gl.int64) * NUM_HEADS + head) * HEAD_DIM
    pointers = (out + at)[:, None] + gl.arange(0, HEAD_DIM, layout=gl.SliceLayout(0, ACC))[None, :]
    gl.store(pointers, values.to(out.dtype.element_ty), mask=(query < num_queries)[:, None])
    if RETURN_LSE:
        row_lse = gl.where(seen, (maximum + gl.log2(gl.where(seen, total, 1.0))) * LN_2, float("-inf"))
        query = WHO * ROWS + gl.arange(0, ROWS, layout=total.type.layout)
        at = (first_q + query).to(gl.int64) * NUM_HEADS + head
        gl.store(lse + at, row_lse, mask=query < num_queries)


@gluon.jit
def _barriers(COUNT: gl.constexpr, ARRIVALS: gl.constexpr):
    """COUNT barriers, whose phases take ARRIVALS to complete."""
    barriers = gl.allocate_shared_memory(gl.int64, [COUNT, 1], mbarrier.MBarrierLayout())
    for i in gl.static_range(COUNT):
        mbarrier.init(barriers.index(i), count=ARRIVALS)
    return barriers


@gluon.jit
def prefill_hopper(
    q,
    k,
    v,
    items,
    num_turns,
    out,
    lse,
    scale_log2,
    NUM_HEADS: gl.constexpr,
    NUM_KV_HEADS: gl.constexpr,
    BLOCK_N: gl.constexpr,
    HEAD_DIM: gl.constexpr,
    STAGES: gl.constexpr,
    CAUSAL: gl.constexpr,
    WINDOW: gl.constexpr,
    RETURN_LSE: gl.constexpr,
):
    """Program i: `items` [num_turns, programs, ITEM_FIELDS] at i. Without ROPE `q_rope` and `k_rope` are not used."""
    q_tile = gl.allocate_shared_memory(q.dtype, [2, ROWS, HEAD_DIM], q.layout)
    k_ring = gl.allocate_shared_memory(k.dtype, [STAGES, BLOCK_N, HEAD_DIM], k.layout)
    v_ring = gl.allocate_shared_memory(v.dtype, [STAGES, BLOCK_N, HEAD_DIM], v.layout)
    q_full, q_empty = _barriers(1, 1).index(0), _barriers(1, 2).index(0)
    k_full, k_empty = _barriers(STAGES, 1), _barriers(STAGES, 2)
    v_full, v_empty = _barriers(STAGES, 1), _barriers(STAGES, 2)
    gl.warp_specialize(
        [
            (
                _consume,
                (
                    items,
                    num_turns,
                    out,
                    lse,
                    scale_log2,
                    q_tile,
                    k_ring,
                    v_ring,
                    q_full,
                    q_empty,
                    k_full,
                    k_empty,
                    v_full,
                    v_empty,
                    0,
                    NUM_HEADS,
                    BLOCK_N,
                    HEAD_DIM,
                    STAGES,
                    CAUSAL,
                    WINDOW,
                    RETURN_LSE,
                ),
            ),
            (
                _consume,
                (
                    items,
                    num_turns,
                    out,
                    lse,
                    scale_log2,
                    q_tile,
                    k_ring,
                    v_ring,
                    q_full,
                    q_empty,
                    k_full,
                    k_empty,
                    v_full,
                    v_empty,
                    1,
                    NUM_HEADS,
                    BLOCK_N,
                    HEAD_DIM,
                    STAGES,
                    CAUSAL,
                    WINDOW,
                    RETURN_LSE,
                ),
            ),
            (
                _produce,
                (
                    q,
                    k,
                    v,
                    items,
                    num_turns,
                    q_tile,
                    k_ring,
                    v_ring,
                    q_full,
                    q_empty,
                    k_full,
                    k_empty,
                    v_full,
                    v_empty,
                    NUM_HEADS,
                    NUM_KV_HEADS,
                    BLOCK_N,
                    HEAD_DIM,
                    STAGES,
                    CAUSAL,
                ),
            ),
        ],
        [4, 1],
        [240, 24],
    )


BLOCK_M = 128
BLOCK_N = 128
"""H200, tuning, 8192 tokens of MLA's 128 heads: 4362 us; with 64 keys and four stages 4964."""
LOG2_E = math.log2(math.e)
L2_BYTES = 24 << 20
"""K and V of the heads that are worked on at the same time should not exceed it: half of an H200's L2.

H200, tuning, 4 x 4096 tokens of 48 KV heads: 1441 us, with all heads at once 1686, with 12 MiB 1440; 8192 tokens of
MLA's 128 heads: 4362 us, with 12 MiB 4339, with 40 MiB 4330.
"""
START_TILES = 1
"""What an item costs beside its tiles: its first scores and last values have nothing to overlap with. Not timed."""


class Item(NamedTuple):
    """One row of the table that `prefill_hopper` reads."""

    first_q: int
    """Row of q."""
    num_queries: int
    """From there to the sequence's end, may be more than BLOCK_M; 0: nothing is to be done."""
    first_kv: int
    """The sequence's first row of k."""
    num_keys: int
    """Of the sequence."""
    position: int
    """Of the first query among the keys."""
    right: int
    """Tiles of keys behind a mask at the right."""
    whole: int
    """Tiles that all queries see whole."""
    left: int
    """Tiles behind a mask at the left, the window's edge."""
    head: int = 0

    @property
    def num_tiles(self) -> int:
        """All tiles of keys that are walked over."""
        return self.right + self.whole + self.left


@dataclass(frozen=True)
class HopperPlan:
    """What `prefill_hopper` is launched with."""

    items: torch.Tensor
    """[turns, programs, fields of Item] int32: what each program does in each of its turns; zeros: nothing."""
    softmax_scale: float
    num_heads: int
    num_kv_heads: int
    causal: bool
    window: int
    return_lse: bool
    stages: int = 2
    """Tiles of K, and of V, in shared memory at once."""
    block_n: int = BLOCK_N
    """Keys in a tile."""
    fallback: Any = None
    """Another kernel's plan for Triton's interpreter, which runs no Gluon."""


def for_hopper(problem: Problem) -> str | None:
    """None, or the limit that this device is past."""
    return None


def item(
    rows: tuple[int, int], lengths: tuple[int, int], block: int, causal: bool, window: int, block_n: int = BLOCK_N
) -> Item:
    """Of a block of queries, from its sequence's first rows of q and k and its numbers of queries and keys."""
    (first_q, first_kv), (num_queries, num_keys) = rows, lengths
    first = block * BLOCK_M
    position = num_keys - num_queries + first
    end, whole_end, start, whole_start = num_keys, num_keys // block_n, 0, 0  # the latter three in tiles
    if causal:
        end = max(0, min(num_keys, position + BLOCK_M))
        whole_end = max(0, min(num_keys, position + 1)) // block_n
    all_tiles = math.ceil(end / block_n)
    if window:
        start = max(0, position - window + 1) // block_n
        whole_start = min(all_tiles, math.ceil(max(0, position + BLOCK_M - window) / block_n))
    # The kernel's first tile is behind a mask, if there is any.
    whole_end = max(whole_start, min(whole_end, all_tiles - 1))
    right, whole = all_tiles - whole_end, whole_end - whole_start
    if right == 0 and all_tiles > start:
        right, whole_start = 1, whole_start - 1
    left = whole_start - start
    return Item(first_q + first, num_queries - first, first_kv, num_keys, position, right, whole, left)


def heads_at_once(num_keys: int, num_kv_heads: int, bytes_per_key: int, l2_bytes: int = L2_BYTES) -> int:
    """KV heads whose keys and values fit L2 together, in groups of about the same number."""
    fitting = max(1, l2_bytes // max(1, num_keys * bytes_per_key))
    return math.ceil(num_kv_heads / math.ceil(num_kv_heads / fitting))


def table(
    sequences: Sequence[tuple[int, int]],
    num_heads: int,
    num_kv_heads: int,
    causal: bool,
    window: int,
    programs: int,
    kv_heads_at_once: int,
    block_n: int = BLOCK_N,
    start_tiles: int = START_TILES,
) -> torch.Tensor:
    """`HopperPlan.items`, from the (queries, keys) of every sequence."""
    rows = list(accumulate(sequences, lambda a, b: (a[0] + b[0], a[1] + b[1]), initial=(0, 0)))
    blocks = [
        item(rows[b], lengths, i, causal, window, block_n)
        for b, lengths in enumerate(sequences)
        for i in range(math.ceil(lengths[0] / BLOCK_M))
    ]
    blocks.sort(key=lambda block: -block.num_tiles)
    group = num_heads // num_kv_heads
    step = kv_heads_at_once * group
    order = (
        block._replace(head=head)
        for first in range(0, num_heads, step)
        for block in blocks
        for head in range(first, min(first + step, num_heads))
    )
    return _schedule(order, max(1, min(programs, len(blocks) * num_heads)), start_tiles)


def _schedule(order: Any, programs: int, start_tiles: int) -> torch.Tensor:
    """[turns, programs, fields]: each item goes to the program that is free first."""
    free = [(0, program) for program in range(programs)]
    turns: list[list[Item]] = [[] for _ in range(programs)]
    for one in order:
        time, program = free[0]
        heapq.heapreplace(free, (time + one.num_tiles + start_tiles, program))
        turns[program].append(one)
    result = torch.zeros((max(1, *map(len, turns)), programs, len(Item._fields)), dtype=torch.int32)
    for program, own in enumerate(turns):
        if own:
            result[: len(own), program] = torch.tensor(own, dtype=torch.int32)
    return result


def launch(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, plan: HopperPlan) -> Outputs:
    """Attention of q [total_q, num_heads, d + rope], k [total_kv, num_kv_heads, d + rope], v [total_kv, ..., d]."""

    head_dim = v.shape[2]
    out = q.new_empty((*q.shape[:2], head_dim))
    outputs = {"out": out}
    if plan.return_lse:
        outputs["lse"] = q.new_empty(q.shape[:2], dtype=torch.float32)
    if len(q) == 0 or len(k) == 0:  # TMA describes no empty tensor
        out.zero_()
        if plan.return_lse:
            outputs["lse"].fill_(-math.inf)
        return outputs
    q_main, k_main = _descriptor(q, 64, head_dim), _descriptor(k, plan.block_n, head_dim)
    num_turns, programs, _ = plan.items.shape
    prefill_hopper[(programs,)](
        q_main,
        k_main,
        _descriptor(v, plan.block_n, head_dim),
        plan.items,
        num_turns,
        out,
        outputs.get("lse", out),
        plan.softmax_scale * LOG2_E,
        NUM_HEADS=plan.num_heads,
        NUM_KV_HEADS=plan.num_kv_heads,
        BLOCK_N=plan.block_n,
        HEAD_DIM=head_dim,
        STAGES=plan.stages,
        CAUSAL=plan.causal,
        WINDOW=plan.window,
        RETURN_LSE=plan.return_lse,
        num_warps=4,
    )
    return outputs


def _descriptor(tensor: torch.Tensor, rows: int, columns: int) -> Any:
    """Tiles of [rows, columns] from [tokens, heads * columns of a head]."""
    from triton.experimental.gluon.language import NVMMASharedLayout
    from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

    layout = NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=2)
    return TensorDescriptor.from_tensor(tensor.flatten(1), [rows, columns], layout)


STAGES = 3
"""What shared memory holds beside Q. H200, tuning, 8192 tokens of 64 heads: 1771 us, with two stages 1793."""


WIDE_TILES = (64, 2)
"""Keys in a tile and tiles in a ring, at most, of heads above 128: they and Q of 256 columns take 193 KiB."""


@dataclass(frozen=True)
class Schedule:
    """How items are laid out, handed out and worked on."""

    stages: int = STAGES
    """Tiles of K, and of V, in shared memory at once."""
    cache_mib: int = 24
    """Of all keys and values as many heads' as fit it are worked on at the same time."""
    start_tiles: int = 1
    """What an item costs beside its tiles, in tiles."""


def facts(problem: AttentionPrefill) -> dict[str, int]:
    """What a table of choices tells problems apart by."""
    return {
        "head_dim": problem.head_dim,
        "is_causal": int(problem.causal),
        "has_window": int(problem.window > 0),
        "kv_heads": problem.num_kv_heads,
        "keys": problem.batch * problem.seq_len_kv,
    }


def tiles_that_fit(problem: AttentionPrefill, schedule: Schedule) -> tuple[int, int]:
    """(keys in a tile, tiles in a ring): a table of choices may give heads of 256 what was found for 128."""
    if problem.head_dim <= 128:
        return 128, schedule.stages
    return min(128, WIDE_TILES[0]), min(schedule.stages, WIDE_TILES[1])


CHOSEN = ("stages", "cache_mib", "start_tiles")


@functools.cache
def _table() -> tuple[tuple[dict[str, Any], Schedule], ...]:
    """(when, what is chosen then), the first that matches counts; read once, from the manifest beside this file."""
    manifest = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
    rows = manifest["dispatch"]
    return tuple((row["when"], Schedule(**{name: row["use"][name] for name in CHOSEN})) for row in rows)


def _matches(when: dict[str, Any], found: dict[str, Any]) -> bool:
    """A fact is given as a value, or as a range, `min` and `max` included."""
    for name, wanted in when.items():
        low, high = (wanted.get("min"), wanted.get("max")) if isinstance(wanted, dict) else (wanted, wanted)
        if (low is not None and found[name] < low) or (high is not None and found[name] > high):
            return False
    return True


def choice_for(problem: AttentionPrefill) -> Schedule:
    """The choice of the table's first row that matches."""
    found = facts(problem)
    return next(chosen for when, chosen in _table() if _matches(when, found))


HEAD_DIMS = (64, 128, 256)


def supports(problem: Problem, device: Device) -> str | None:
    """None, or the limit that this problem or device is past."""
    assert isinstance(problem, AttentionPrefill)
    if problem.head_dim not in HEAD_DIMS:
        return f"its TMA tiles are whole heads of 64, 128 or 256 columns; these have {problem.head_dim}"
    return for_hopper(problem)


def plan(problem: Problem, plan_inputs: Inputs, device: Device) -> HopperPlan:
    """List the items."""
    assert isinstance(problem, AttentionPrefill)
    return plan_from(problem, choice_for(problem), device, plan_inputs)


def plan_from(problem: AttentionPrefill, schedule: Schedule, device: Device, plan_inputs: Inputs) -> HopperPlan:
    """What follows from a choice."""
    where, sequences = plan_inputs["cu_seqlens_q"].device, planned_lengths(plan_inputs, problem.sequences)
    num_keys = sum(n for _, n in sequences)
    block_n, stages = tiles_that_fit(problem, schedule)
    at_once = heads_at_once(num_keys, problem.num_kv_heads, 2 * problem.head_dim * 2, schedule.cache_mib << 20)
    items = table(
        sequences,
        problem.num_heads,
        problem.num_kv_heads,
        problem.causal,
        problem.window,
        device.num_sms,
        at_once,
        block_n,
        schedule.start_tiles,
    )
    return HopperPlan(
        items=items.to(where),
        softmax_scale=problem.softmax_scale,
        num_heads=problem.num_heads,
        num_kv_heads=problem.num_kv_heads,
        causal=problem.causal,
        window=problem.window,
        return_lse=problem.return_lse,
        stages=stages,
        block_n=block_n,
        fallback=FALLBACK.plan(problem, plan_inputs, device) if where.type == "cpu" else None,
    )


def run(inputs: Inputs, state: HopperPlan) -> Outputs:
    """One launch."""
    if state.fallback:
        return FALLBACK.run(inputs, state.fallback)
    return launch(inputs["q"], inputs["k"], inputs["v"], state)


def supports_here(problem: Problem, device: Device) -> str | None:
    """Its choices are for one architecture."""
    if device.kind != "cpu" and device.arch != "sm_90":
        return f"it was generated for sm_90, and this device is {device.arch}"
    return supports(problem, device)


KERNEL = Kernel(
    origin=Origin.GENERATED,
    tasks=("prefill",),
    supports=supports_here,
    run=run,
    plan=plan,
    requires=("triton",),
    uses_triton=True,
)
