"""The product for one token, in Triton: every row of the weight times a vector, without matrix instructions.

A program takes BLOCK_N rows of both tiles and all of K, 16 bytes a thread of every row in a step; what a thread has
multiplied it adds up by itself, and threads exchange their sums once, at the end. A norm is applied on the way, as
`_skinny_gemm` does it. Where a row is a single step and x comes from the kernel just ahead, the program fetches its
rows into registers before it waits; else it prefetches them to L2.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from ._gemm_epilogues import store_tiles, weight_rows
from ._skinny_gemm import prefetch


@triton.jit
def vector_gemm(
    x, norm_weight, weight, out, k_out, v_out, residual, q_norm_weight, k_norm_weight, cos_sin, positions,
    next_counters, num_next_counters, epsilon,
    N: tl.constexpr, K: tl.constexpr, NUM_HEADS: tl.constexpr, NUM_KV_HEADS: tl.constexpr, HALF: tl.constexpr,
    HALF_BLOCK: tl.constexpr, MODE: tl.constexpr, HAS_RESIDUAL: tl.constexpr, HAS_NORM: tl.constexpr,
    NORM_INPUT: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, STAGES: tl.constexpr,
    PREFETCH_LINES: tl.constexpr, BLOCK_C: tl.constexpr, DEPENDENT_LAUNCH: tl.constexpr, WAITS: tl.constexpr,
):  # fmt: skip
    """Program n: tiles n of x [1, K] times weight^T. The rest: see `_gemm_epilogues`.

    A program zeroes the BLOCK_C, at most, of a later kernel.
    """
    tile_n = tl.program_id(0)
    first_row, second_row = weight_rows(tile_n, N, HALF, HALF_BLOCK, BLOCK_N, MODE)
    column = tl.arange(0, BLOCK_K)[None, :]
    first_at = weight + first_row.to(tl.int64)[:, None] * K + column
    second_at = weight + second_row.to(tl.int64)[:, None] * K + column
    if DEPENDENT_LAUNCH:
        gdc_launch_dependents()
    if K <= BLOCK_K:
        right_1 = _columns(first_at, column, 0, K, BLOCK_K, "evict_first")
        right_2 = _columns(second_at, column, 0, K, BLOCK_K, "evict_first")
        if WAITS:
            gdc_wait()
        left, squares = _left(x, norm_weight, column, 0, K, NORM_INPUT, BLOCK_K)
        first, second = left * right_1, left * right_2
    else:
        if WAITS:
            prefetch(weight, first_row, 0, K - 1, K, PREFETCH_LINES)
            prefetch(weight, second_row, 0, K - 1, K, PREFETCH_LINES)
            gdc_wait()
        first = tl.zeros([BLOCK_N, BLOCK_K], tl.float32)
        second = tl.zeros([BLOCK_N, BLOCK_K], tl.float32)
        squares = tl.zeros([1, BLOCK_K], tl.float32)
        for k in tl.range(0, K, BLOCK_K, num_stages=STAGES):
            right_1 = _columns(first_at, column, k, K, BLOCK_K, "evict_first")
            right_2 = _columns(second_at, column, k, K, BLOCK_K, "evict_first")
            left, more = _left(x, norm_weight, column, k, K, NORM_INPUT, BLOCK_K)
            first += left * right_1
            second += left * right_2
            squares += more
    if BLOCK_C > 0:  # noqa: SIM102 - decided when it is compiled
        if tile_n == 0:
            counter = tl.arange(0, BLOCK_C)
            tl.store(next_counters + counter, tl.zeros([BLOCK_C], tl.int32), mask=counter < num_next_counters)
    first, second = tl.sum(first, 1)[None, :], tl.sum(second, 1)[None, :]
    if NORM_INPUT:
        inverse = tl.rsqrt(tl.sum(squares, 1) / K + epsilon)[:, None]
        first *= inverse
        second *= inverse
    store_tiles(
        first, second, tl.arange(0, 1), tile_n, out, k_out, v_out, residual, q_norm_weight, k_norm_weight, cos_sin,
        positions, 1, epsilon, N, NUM_HEADS, NUM_KV_HEADS, HALF, HALF_BLOCK, BLOCK_N, MODE, HAS_RESIDUAL, HAS_NORM,
    )  # fmt: skip


@triton.jit
def _left(x, norm_weight, column, k, K: tl.constexpr, NORM_INPUT: tl.constexpr, BLOCK_K: tl.constexpr):
    """Columns [k, k + BLOCK_K) of x, times the norm's weight, and their squares: [1, BLOCK_K] float32 each."""
    left = _columns(x + column, column, k, K, BLOCK_K, "evict_last")
    squares = left * left
    if NORM_INPUT:
        left *= _columns(norm_weight + column, column, k, K, BLOCK_K, "evict_last")
    return left, squares


@triton.jit
def _columns(at, column, k, K: tl.constexpr, BLOCK_K: tl.constexpr, POLICY: tl.constexpr):
    """What lies k behind `at`, in float32; 0 past K."""
    if K % BLOCK_K == 0:
        values = tl.load(at + k, eviction_policy=POLICY)
    else:
        values = tl.load(at + k, mask=column < K - k, other=0.0, eviction_policy=POLICY)
    return values.to(tl.float32)
