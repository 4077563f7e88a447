"""Attention prefill in Triton: flash attention over packed sequences, heaviest blocks of queries first.

The maths is _prefill_problem.py's. A program owns BLOCK_M queries of one head and walks over tiles of BLOCK_N keys with
an online softmax in base 2. Tiles that every query of the block sees whole are taken without a mask; those that the
diagonal, the window's edge or the sequence's end cuts are taken in loops of their own.

Blocks of queries differ in work by their position, under a causal mask, and by their sequence's length. `plan` lists
them in order of falling work, so that the device ends on the lightest (longest processing time first). The heads are
the fast dimension of the grid: heads that share keys and values run at the same time. A plan may part the heads into
groups, one after the other, so that the keys and values of those at work stay in L2. Where blocks are few and keys
many, each block's keys are cut into parts, and a second kernel combines their results (`prefill_combine`).

From sm_90 tiles are copied by TMA: k and v are seen as [total_kv, num_kv_heads * head_dim], and a tile that reaches
past its sequence's end holds the next one's rows, which the mask hides, or zeros past the last. Elsewhere rows past
the end are not loaded, nor columns past a head's own: tiles have powers of two, and TMA is for heads that have one.

FlashAttention-2: arXiv 2307.08691; FlashAttention-3: arXiv 2407.08608.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from ..kernel import Kernel, Origin
from ..prefill_combine import combine_parts, part_of, part_tensors
from ..problem import Inputs, Outputs
from ._in_head import in_head
from ._prefill_plan import PrefillPlan, plan

LOG2_E = math.log2(math.e)
LN_2 = tl.constexpr(math.log(2))


@triton.jit
def _load_tile(
    tensor, stride, first_row, end_row, column,
    BLOCK_N: tl.constexpr, HEAD_DIM: tl.constexpr, PADDED_DIM: tl.constexpr, TMA: tl.constexpr,
    IN_BOUNDS: tl.constexpr,
):  # fmt: skip
    """[BLOCK_N, PADDED_DIM] of k or v from row `first_row`: a descriptor with TMA, else a pointer. Zeros past the end,
    without TMA, and past the head's columns."""
    if TMA:
        tile = tensor.load([first_row, column])
    else:
        row = first_row + tl.arange(0, BLOCK_N)
        own_column = tl.arange(0, PADDED_DIM)
        pointers = tensor + row.to(tl.int64)[:, None] * stride + column + own_column[None, :]
        if IN_BOUNDS and PADDED_DIM == HEAD_DIM:
            tile = tl.load(pointers)
        elif IN_BOUNDS:
            tile = tl.load(pointers, mask=(own_column < HEAD_DIM)[None, :], other=0.0)
        else:
            used = in_head((row < end_row)[:, None], own_column[None, :], HEAD_DIM, PADDED_DIM)
            tile = tl.load(pointers, mask=used, other=0.0)
    return tile


@triton.jit
def _attend(
    acc, total, maximum, q_block, k, v, stride_kv, column, first_row, position, num_keys, first_key, end_key,
    scale_log2, BLOCK_N: tl.constexpr, HEAD_DIM: tl.constexpr, PADDED_DIM: tl.constexpr, CAUSAL: tl.constexpr,
    WINDOW: tl.constexpr, MASKED: tl.constexpr, TMA: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """One loop over keys [first_key, end_key): unscaled output [BLOCK_M, PADDED_DIM], sum and maximum [BLOCK_M]."""
    for key in tl.range(first_key, end_key, BLOCK_N, num_stages=STAGES):
        row, end_row = first_row + key, first_row + num_keys
        k_tile = _load_tile(k, stride_kv, row, end_row, column, BLOCK_N, HEAD_DIM, PADDED_DIM, TMA, not MASKED)
        scores = tl.dot(q_block, k_tile.T)
        if MASKED:
            keys = key + tl.arange(0, BLOCK_N)[None, :]
            visible = keys < num_keys
            if CAUSAL:
                visible = keys <= position[:, None]  # no position lies past the last key
            if WINDOW > 0:
                visible = visible & (keys > position[:, None] - WINDOW)
            scores = tl.where(visible, scores, float("-inf"))
        new_maximum = tl.maximum(maximum, tl.max(scores, 1) * scale_log2)
        shift = new_maximum
        if MASKED:
            shift = tl.where(new_maximum == float("-inf"), 0.0, new_maximum)  # a query that has seen nothing yet
        probabilities = tl.exp2(scores * scale_log2 - shift[:, None])
        decay = tl.exp2(maximum - shift)
        total = total * decay + tl.sum(probabilities, 1)
        v_tile = _load_tile(v, stride_kv, row, end_row, column, BLOCK_N, HEAD_DIM, PADDED_DIM, TMA, not MASKED)
        acc = tl.dot(probabilities.to(v_tile.dtype), v_tile, acc=acc * decay[:, None])
        maximum = new_maximum
    return acc, total, maximum


@triton.jit
def find_block(
    blocks, cu_seqlens_q, cu_seqlens_kv,
    NUM_HEADS: tl.constexpr, NUM_KV_HEADS: tl.constexpr, HEADS_AT_ONCE: tl.constexpr, BLOCK_M: tl.constexpr,
    KV_HEADS_FASTEST: tl.constexpr,
):  # fmt: skip
    """Of this program: head, its first query within the sequence, the sequence's rows and lengths."""
    sequence = tl.load(blocks + tl.program_id(1) * 2)
    first_query = tl.load(blocks + tl.program_id(1) * 2 + 1) * BLOCK_M
    head = tl.program_id(0)
    if KV_HEADS_FASTEST:
        kv_heads: tl.constexpr = NUM_KV_HEADS * HEADS_AT_ONCE // NUM_HEADS
        head = (head % kv_heads) * (NUM_HEADS // NUM_KV_HEADS) + head // kv_heads
    if HEADS_AT_ONCE < NUM_HEADS:
        head += tl.program_id(2) * HEADS_AT_ONCE
    first_q = tl.load(cu_seqlens_q + sequence)
    first_kv = tl.load(cu_seqlens_kv + sequence)
    num_queries = tl.load(cu_seqlens_q + sequence + 1) - first_q
    num_keys = tl.load(cu_seqlens_kv + sequence + 1) - first_kv
    return head, first_query, first_q, first_kv, num_queries, num_keys


@triton.jit
def find_tiles(
    first_position, num_keys,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr,
):  # fmt: skip
    """Keys start <= whole_start <= whole_end <= end, multiples of BLOCK_N but for `end`: a block of queries, the first
    at `first_position`, sees some of those from start to end, and all of those from whole_start to whole_end."""
    end = num_keys
    whole_end = num_keys // BLOCK_N * BLOCK_N
    start = num_keys * 0
    whole_start = start
    if CAUSAL:
        end = tl.maximum(tl.minimum(num_keys, first_position + BLOCK_M), 0)
        whole_end = tl.maximum(tl.minimum(num_keys, first_position + 1), 0) // BLOCK_N * BLOCK_N
    if WINDOW > 0:
        start = tl.maximum(first_position - WINDOW + 1, 0) // BLOCK_N * BLOCK_N
        whole_start = tl.cdiv(tl.maximum(first_position + BLOCK_M - WINDOW, 0), BLOCK_N) * BLOCK_N
        whole_start = tl.minimum(whole_start, tl.cdiv(end, BLOCK_N) * BLOCK_N)
        whole_end = tl.maximum(whole_end, whole_start)
    return start, whole_start, whole_end, end


@triton.jit
def _prefill(
    q, k, v, blocks, cu_seqlens_q, cu_seqlens_kv, out, lse, scale_log2,
    NUM_HEADS: tl.constexpr, NUM_KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, PADDED_DIM: tl.constexpr,
    CAUSAL: tl.constexpr, WINDOW: tl.constexpr, RETURN_LSE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    STAGES: tl.constexpr, TMA: tl.constexpr, KV_HEADS_FASTEST: tl.constexpr, HEADS_AT_ONCE: tl.constexpr,
    PARTS: tl.constexpr,
):  # fmt: skip
    """Program (h, i, g): head h of group g of heads, queries of block i of the list. With PARTS, which wants all heads
    at once, g is a part of the keys that these queries see: out and lse, in base 2, are those of the parts."""
    head, first_query, first_q, first_kv, num_queries, num_keys = find_block(
        blocks, cu_seqlens_q, cu_seqlens_kv, NUM_HEADS, NUM_KV_HEADS, HEADS_AT_ONCE, BLOCK_M, KV_HEADS_FASTEST
    )
    query = first_query + tl.arange(0, BLOCK_M)
    is_query = query < num_queries
    q_row = (first_q + query).to(tl.int64) * NUM_HEADS + head
    own_column = tl.arange(0, PADDED_DIM)
    at = q_row[:, None] * HEAD_DIM + own_column[None, :]
    used = in_head(is_query[:, None], own_column[None, :], HEAD_DIM, PADDED_DIM)
    q_block = tl.load(q + at, mask=used, other=0.0)
    first_position = num_keys - num_queries + first_query
    position = tl.minimum(first_position + tl.arange(0, BLOCK_M), num_keys - 1)  # past the last query: any row
    column = (head // (NUM_HEADS // NUM_KV_HEADS)) * HEAD_DIM
    start, whole_start, whole_end, end = find_tiles(first_position, num_keys, BLOCK_M, BLOCK_N, CAUSAL, WINDOW)

    if PARTS > 1:
        part = tl.program_id(2)
        start, end = part_of(start, end, part, PARTS, BLOCK_N)
        whole_start = tl.minimum(tl.maximum(whole_start, start), end)
        whole_end = tl.minimum(tl.maximum(whole_end, start), end)
        q_row = q_row * PARTS + part
        at = q_row[:, None] * HEAD_DIM + own_column[None, :]

    acc = tl.zeros([BLOCK_M, PADDED_DIM], tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    maximum = tl.full([BLOCK_M], float("-inf"), tl.float32)
    stride_kv: tl.constexpr = NUM_KV_HEADS * HEAD_DIM
    if WINDOW > 0:
        acc, total, maximum = _attend(
            acc, total, maximum, q_block, k, v, stride_kv, column, first_kv, position, num_keys, start, whole_start,
            scale_log2, BLOCK_N, HEAD_DIM, PADDED_DIM, CAUSAL, WINDOW, True, TMA, STAGES,
        )  # fmt: skip
    acc, total, maximum = _attend(
        acc, total, maximum, q_block, k, v, stride_kv, column, first_kv, position, num_keys, whole_start, whole_end,
        scale_log2, BLOCK_N, HEAD_DIM, PADDED_DIM, CAUSAL, WINDOW, False, TMA, STAGES,
    )  # fmt: skip
    acc, total, maximum = _attend(
        acc, total, maximum, q_block, k, v, stride_kv, column, first_kv, position, num_keys, whole_end, end,
        scale_log2, BLOCK_N, HEAD_DIM, PADDED_DIM, CAUSAL, WINDOW, True, TMA, STAGES,
    )  # fmt: skip

    seen = total > 0
    acc *= tl.where(seen, 1.0 / tl.where(seen, total, 1.0), 0.0)[:, None]
    tl.store(out + at, acc.to(out.dtype.element_ty), mask=used)
    LSE_FACTOR: tl.constexpr = 1.0 if PARTS > 1 else LN_2
    if RETURN_LSE:
        row_lse = tl.where(seen, (maximum + tl.log2(tl.where(seen, total, 1.0))) * LSE_FACTOR, float("-inf"))
        tl.store(lse + q_row, row_lse, mask=is_query)


def run(inputs: Inputs, state: PrefillPlan) -> Outputs:
    """One launch, or two; see `_prefill_plan.plan` for the choice of every block size."""
    q, k, v = inputs["q"], inputs["k"], inputs["v"]
    out = torch.empty_like(q)
    outputs = {"out": out}
    if state.return_lse:
        outputs["lse"] = q.new_empty(q.shape[:2], dtype=torch.float32)
    if state.tma:  # tiles of [block_n, head_dim] from [total_kv, num_kv_heads * head_dim]
        k, v = (TensorDescriptor.from_tensor(t.flatten(1), [state.block_n, t.shape[2]]) for t in (k, v))
    own_out, own_lse = part_tensors(out, state.parts) if state.parts > 1 else (out, outputs.get("lse", out))
    _prefill[(state.heads_at_once, len(state.blocks), state.parts * q.shape[1] // state.heads_at_once)](
        q, k, v, state.blocks, inputs["cu_seqlens_q"], inputs["cu_seqlens_kv"],
        own_out, own_lse, state.softmax_scale * LOG2_E,
        NUM_HEADS=q.shape[1], NUM_KV_HEADS=inputs["k"].shape[1], HEAD_DIM=q.shape[2],
        PADDED_DIM=state.padded_dim, CAUSAL=state.causal, WINDOW=state.window,
        RETURN_LSE=state.return_lse or state.parts > 1,
        BLOCK_M=state.block_m, BLOCK_N=state.block_n, STAGES=state.num_stages, TMA=state.tma,
        KV_HEADS_FASTEST=state.kv_heads_fastest, HEADS_AT_ONCE=state.heads_at_once,
        PARTS=state.parts, num_warps=state.num_warps, **state.backend_options,
    )  # fmt: skip
    if state.parts > 1:
        combine_parts(own_out, own_lse, out, outputs.get("lse"))
    return outputs


KERNEL = Kernel(origin=Origin.HAND, tasks=("prefill",), run=run, plan=plan, requires=("triton",), uses_triton=True)
