"""MLA prefill in Triton: one pass over the keys with an online softmax, split at the diagonal.

The maths is _prefill_problem.py's. A program owns `BLOCK_M` queries of one sequence and one head, and walks over tiles
of `BLOCK_N` tokens: first those that all of its queries see, without a mask, then those at the diagonal. Heads of 192
are two products of 128 and 64 columns, because tiles have powers of two. Scores stay in float32 and are scaled
together with the subtraction of their maximum, one multiply-add for each.

Which tile of which sequence a program has follows from `cu_seqlens_q` on the device, so a captured graph replays with
other lengths. The grid takes a few heads at a time, as many as have room for their K and V in L2, and of each the last
queries first, for they have the most to do. Where queries are few and keys many, each tile's keys are cut into parts,
and a second kernel combines their results (`prefill_combine`).

FlashAttention-2: https://arxiv.org/abs/2307.08691
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl

from ..kernel import Kernel, Origin
from ..prefill_combine import combine_parts, part_of, part_tensors
from ..problem import Inputs, Outputs
from ._dims import QK_NOPE_HEAD_DIM, QK_ROPE_HEAD_DIM, V_HEAD_DIM
from ._prefill_plan import PrefillPlan, plan

LOG2_E = math.log2(math.e)
LN_2 = tl.constexpr(math.log(2))


@triton.jit
def _attend(
    q_nope, q_rope, k_tile, v_tile, first, end, kv_len, last_seen, scale_log2, maximum, total, acc,
    HEADS: tl.constexpr, NOPE: tl.constexpr, ROPE: tl.constexpr, V_DIM: tl.constexpr, BLOCK_N: tl.constexpr,
    IS_DIAGONAL: tl.constexpr, PARTS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Tokens [first, end) in tiles; `k_tile` and `v_tile` point at row `first` of K and V, their head's columns."""
    row = tl.arange(0, BLOCK_N)
    k_row = row[:, None] * (HEADS * (NOPE + ROPE))
    v_pointers = row[:, None] * (HEADS * V_DIM) + tl.arange(0, V_DIM)[None, :]
    nope_pointers = k_row + tl.arange(0, NOPE)[None, :]
    rope_pointers = k_row + (NOPE + tl.arange(0, ROPE))[None, :]
    for token in tl.range(first, end, BLOCK_N, num_stages=STAGES):
        if IS_DIAGONAL:
            used = (token + row < kv_len)[:, None]
            k_nope = tl.load(k_tile + nope_pointers, mask=used, other=0.0)
            k_rope = tl.load(k_tile + rope_pointers, mask=used, other=0.0)
            v = tl.load(v_tile + v_pointers, mask=used, other=0.0)
        else:
            k_nope = tl.load(k_tile + nope_pointers)
            k_rope = tl.load(k_tile + rope_pointers)
            v = tl.load(v_tile + v_pointers)
        scores = tl.dot(q_nope, k_nope.T)
        scores = tl.dot(q_rope, k_rope.T, acc=scores)
        if IS_DIAGONAL:
            scores = tl.where((token + row)[None, :] <= last_seen[:, None], scores, float("-inf"))
        # Every query sees token 0, which is in the first tile: the maximum is finite from there on, but for parts that
        # begin at the diagonal.
        new_maximum = tl.maximum(maximum, tl.max(scores, 1) * scale_log2)
        shift = new_maximum
        if IS_DIAGONAL and PARTS > 1:
            shift = tl.where(new_maximum == float("-inf"), 0.0, new_maximum)
        probabilities = tl.exp2(scores * scale_log2 - shift[:, None])
        decay = tl.exp2(maximum - shift)
        total = total * decay + tl.sum(probabilities, 1)
        acc = tl.dot(probabilities.to(v.dtype), v, acc=acc * decay[:, None])
        maximum = new_maximum
        k_tile += BLOCK_N * HEADS * (NOPE + ROPE)  # pointers advance: offsets from the start would exceed 32 bits
        v_tile += BLOCK_N * HEADS * V_DIM
    return maximum, total, acc


@triton.jit
def _find_tile(cu_seqlens_q, batch, tile, BATCH_BLOCK: tl.constexpr, BLOCK_M: tl.constexpr):
    """(sequence, first query within it) of a tile; `sequence` is `batch` past the last one."""
    index = tl.arange(0, BATCH_BLOCK)
    is_sequence = index < batch
    start = tl.load(cu_seqlens_q + index, mask=is_sequence, other=0)
    end = tl.load(cu_seqlens_q + index + 1, mask=is_sequence, other=0)
    tiles = tl.cdiv(end - start, BLOCK_M)
    is_before = is_sequence & (tl.cumsum(tiles, 0) <= tile)
    return tl.sum(is_before.to(tl.int32), 0), (tile - tl.sum(tl.where(is_before, tiles, 0), 0)) * BLOCK_M


@triton.jit
def _prefill(
    q, k, v, out, lse, cu_seqlens_q, cu_seqlens_kv, batch, num_tiles, scale_log2,
    HEADS: tl.constexpr, HEADS_AT_ONCE: tl.constexpr, NOPE: tl.constexpr, ROPE: tl.constexpr, V_DIM: tl.constexpr,
    BATCH_BLOCK: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, STAGES: tl.constexpr,
    PARTS: tl.constexpr,
):  # fmt: skip
    """Programs of `HEADS_AT_ONCE` heads are neighbours, and of them those of the same tile, the last tile first.

    With PARTS program (_, p) has part p of the keys: out and lse, in base 2, are those of the parts.
    """
    group = tl.program_id(0) // (num_tiles * HEADS_AT_ONCE)
    within = tl.program_id(0) % (num_tiles * HEADS_AT_ONCE)
    heads_here = tl.minimum(HEADS_AT_ONCE, HEADS - group * HEADS_AT_ONCE)
    head = group * HEADS_AT_ONCE + within % heads_here
    sequence, first_query = _find_tile(cu_seqlens_q, batch, num_tiles - 1 - within // heads_here, BATCH_BLOCK, BLOCK_M)
    if sequence >= batch:
        return
    q_start = tl.load(cu_seqlens_q + sequence)
    q_len = tl.load(cu_seqlens_q + sequence + 1) - q_start
    kv_start = tl.load(cu_seqlens_kv + sequence)
    kv_len = tl.load(cu_seqlens_kv + sequence + 1) - kv_start

    query = first_query + tl.arange(0, BLOCK_M)
    is_query = query < q_len
    row = (q_start + query).to(tl.int64) * HEADS + head  # of Q, out and lse
    q_row = q + row[:, None] * (NOPE + ROPE)
    q_nope = tl.load(q_row + tl.arange(0, NOPE)[None, :], mask=is_query[:, None], other=0.0)
    q_rope = tl.load(q_row + (NOPE + tl.arange(0, ROPE))[None, :], mask=is_query[:, None], other=0.0)
    last_seen = kv_len - q_len + query
    kv_row = kv_start.to(tl.int64) * HEADS + head

    maximum = tl.full([BLOCK_M], float("-inf"), tl.float32)  # of the scores in base 2
    total = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, V_DIM], tl.float32)
    first_seen_by_some = (kv_len - q_len + first_query + 1) // BLOCK_N * BLOCK_N
    end = tl.minimum(kv_len, kv_len - q_len + first_query + BLOCK_M)
    first = 0
    if PARTS > 1:
        first, end = part_of(first, end, tl.program_id(1), PARTS, BLOCK_N)
        first_seen_by_some = tl.minimum(tl.maximum(first_seen_by_some, first), end)
        kv_row += first.to(tl.int64) * HEADS
        row = row * PARTS + tl.program_id(1)
    maximum, total, acc = _attend(
        q_nope, q_rope, k + kv_row * (NOPE + ROPE), v + kv_row * V_DIM, first, first_seen_by_some, kv_len, last_seen,
        scale_log2, maximum, total, acc, HEADS, NOPE, ROPE, V_DIM, BLOCK_N, False, PARTS, STAGES,
    )  # fmt: skip
    kv_row += (first_seen_by_some - first).to(tl.int64) * HEADS
    maximum, total, acc = _attend(
        q_nope, q_rope, k + kv_row * (NOPE + ROPE), v + kv_row * V_DIM, first_seen_by_some, end, kv_len, last_seen,
        scale_log2, maximum, total, acc, HEADS, NOPE, ROPE, V_DIM, BLOCK_N, True, PARTS, STAGES,
    )  # fmt: skip
    LSE_FACTOR: tl.constexpr = 1.0 if PARTS > 1 else LN_2
    if PARTS > 1:  # a part may hold no key that a query sees
        total = tl.where(total > 0, total, 1.0)
    tl.store(lse + row, (maximum + tl.log2(total)) * LSE_FACTOR, mask=is_query)
    pointers = out + row[:, None] * V_DIM + tl.arange(0, V_DIM)[None, :]
    tl.store(pointers, (acc / total[:, None]).to(out.dtype.element_ty), mask=is_query[:, None])


def run(inputs: Inputs, state: PrefillPlan) -> Outputs:
    """One launch, or two; see `_prefill_plan` for the choice of every block size."""
    q, cu_seqlens_q = inputs["q"], inputs["cu_seqlens_q"]
    total_q, num_heads, _ = q.shape
    batch = len(cu_seqlens_q) - 1
    out = q.new_empty((total_q, num_heads, V_HEAD_DIM))
    lse = q.new_empty((total_q, num_heads), dtype=torch.float32)
    own_out, own_lse = part_tensors(out, state.parts) if state.parts > 1 else (out, lse)
    _prefill[(state.num_tiles * num_heads, state.parts)](
        q, inputs["k"], inputs["v"], own_out, own_lse, cu_seqlens_q, inputs["cu_seqlens_kv"], batch, state.num_tiles,
        state.softmax_scale * LOG2_E,
        HEADS=num_heads, HEADS_AT_ONCE=state.heads_at_once, NOPE=QK_NOPE_HEAD_DIM, ROPE=QK_ROPE_HEAD_DIM,
        V_DIM=V_HEAD_DIM, BATCH_BLOCK=triton.next_power_of_2(batch), BLOCK_M=state.block_m, BLOCK_N=state.block_n,
        STAGES=state.num_stages, PARTS=state.parts, num_warps=state.num_warps, **state.backend_options,
    )  # fmt: skip
    if state.parts > 1:
        combine_parts(own_out, own_lse, out, lse)
    return {"out": out, "lse": lse}


KERNEL = Kernel(origin=Origin.HAND, tasks=("prefill",), run=run, plan=plan, requires=("triton",), uses_triton=True)
