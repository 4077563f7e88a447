"""QK-norm, RoPE and the append to a paged cache in one Triton launch.

A program takes some heads of one token: queries, keys and values are told apart by the number of the head, so that
nothing is read twice. A head lies in two tiles of its halves [heads, head_dim / 2]: the rotation needs no shuffle, and
the token's cosines and sines are loaded once for all heads of the program.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..kernel import Kernel, Origin
from ..problem import Inputs, Outputs
from ._qk_append_plan import AppendPlan, plan


@triton.jit
def _append(
    qkv, q_norm_weight, k_norm_weight, cos_sin, positions, slots, k_cache, v_cache, q, epsilon,
    NUM_HEADS: tl.constexpr, NUM_KV_HEADS: tl.constexpr, HALF: tl.constexpr, BLOCK_H: tl.constexpr,
    BLOCK_D: tl.constexpr, LOAD_POLICY: tl.constexpr, STORE_MODIFIER: tl.constexpr,
):  # fmt: skip
    """Program i: heads [i % n * BLOCK_H, ..) of token i // n, where n blocks cover the heads of q, k and v."""
    FIRST_VALUE: tl.constexpr = NUM_HEADS + NUM_KV_HEADS
    HEADS: tl.constexpr = FIRST_VALUE + NUM_KV_HEADS
    HEAD_DIM: tl.constexpr = 2 * HALF
    blocks: tl.constexpr = (HEADS + BLOCK_H - 1) // BLOCK_H
    token = (tl.program_id(0) // blocks).to(tl.int64)
    first_head = tl.program_id(0) % blocks * BLOCK_H
    head = first_head + tl.arange(0, BLOCK_H)
    column = tl.arange(0, BLOCK_D)
    is_column = column < HALF
    slot = tl.load(slots + token)
    position = tl.load(positions + token)
    offset = head[:, None] * HEAD_DIM + column[None, :]
    inside = (head < HEADS)[:, None] & is_column[None, :]
    at = qkv + token * (HEADS * HEAD_DIM) + offset
    first = tl.load(at, mask=inside, other=0.0, eviction_policy=LOAD_POLICY)
    second = tl.load(at + HALF, mask=inside, other=0.0, eviction_policy=LOAD_POLICY)
    cached = slot * (NUM_KV_HEADS * HEAD_DIM) + offset  # of head 0 of a cache, as if it were q's

    if first_head + BLOCK_H > FIRST_VALUE:
        value = v_cache + cached - FIRST_VALUE * HEAD_DIM
        is_value = inside & (head >= FIRST_VALUE)[:, None]
        tl.store(value, first, mask=is_value, cache_modifier=STORE_MODIFIER)
        tl.store(value + HALF, second, mask=is_value, cache_modifier=STORE_MODIFIER)
    if first_head < FIRST_VALUE:
        is_query = (head < NUM_HEADS)[:, None]
        turn = cos_sin + position * HEAD_DIM + column
        first, second = _normed_and_turned(
            first, second, turn, q_norm_weight, k_norm_weight, is_query, column, is_column, epsilon, HALF
        )
        query = q + token * (NUM_HEADS * HEAD_DIM) + offset
        tl.store(query, first, mask=inside & is_query, cache_modifier=STORE_MODIFIER)
        tl.store(query + HALF, second, mask=inside & is_query, cache_modifier=STORE_MODIFIER)
        if first_head + BLOCK_H > NUM_HEADS:
            key = k_cache + cached - NUM_HEADS * HEAD_DIM
            is_key = inside & (head >= NUM_HEADS)[:, None] & (head < FIRST_VALUE)[:, None]
            tl.store(key, first, mask=is_key, cache_modifier=STORE_MODIFIER)
            tl.store(key + HALF, second, mask=is_key, cache_modifier=STORE_MODIFIER)


@triton.jit
def _normed_and_turned(
    first, second, turn, q_norm_weight, k_norm_weight, is_query, column, is_column, epsilon, HALF: tl.constexpr
):
    """Both halves of the heads, normed and turned in float32 and rounded once. `turn`: the token's cosines."""
    cos = tl.load(turn, mask=is_column, other=0.0)[None, :]
    sin = tl.load(turn + HALF, mask=is_column, other=0.0)[None, :]
    a, b = first.to(tl.float32), second.to(tl.float32)
    inverse = tl.rsqrt((tl.sum(a * a, 1) + tl.sum(b * b, 1)) / (2 * HALF) + epsilon)[:, None]
    a *= inverse * _weight(q_norm_weight, k_norm_weight, is_query, column, is_column)
    b *= inverse * _weight(q_norm_weight + HALF, k_norm_weight + HALF, is_query, column, is_column)
    return (a * cos - b * sin).to(first.dtype), (b * cos + a * sin).to(first.dtype)


@triton.jit
def _weight(of_queries, of_keys, is_query, column, is_column):
    """The norm's weight for every head, [BLOCK_H, BLOCK_D] float32."""
    query = tl.load(of_queries + column, mask=is_column, other=0.0).to(tl.float32)
    key = tl.load(of_keys + column, mask=is_column, other=0.0).to(tl.float32)
    return tl.where(is_query, query[None, :], key[None, :])


def run(inputs: Inputs, state: AppendPlan) -> Outputs:
    """One launch; rows of the caches are written in place."""
    problem, qkv = state.problem, inputs["qkv"]
    heads = problem.num_heads + 2 * problem.num_kv_heads
    q = qkv.new_empty((problem.tokens, problem.num_heads, problem.head_dim))
    _append[(problem.tokens * triton.cdiv(heads, state.block_h),)](
        qkv, inputs["q_norm_weight"], inputs["k_norm_weight"], inputs["cos_sin"], inputs["positions"], inputs["slots"],
        inputs["k_cache"], inputs["v_cache"], q, problem.epsilon,
        NUM_HEADS=problem.num_heads, NUM_KV_HEADS=problem.num_kv_heads, HALF=problem.head_dim // 2,
        BLOCK_H=state.block_h, BLOCK_D=triton.next_power_of_2(problem.head_dim // 2),
        LOAD_POLICY=state.load_policy, STORE_MODIFIER=state.store_modifier, num_warps=state.num_warps,
    )  # fmt: skip
    return {"q": q}


KERNEL = Kernel(origin=Origin.HAND, tasks=("qk_append",), run=run, plan=plan, requires=("triton",), uses_triton=True)
