"""The product for one token, in Triton: every row of the weight times a vector, without matrix instructions.

A program takes BLOCK_N rows of both tiles and all of K, 16 bytes a thread of every row in a step; what a thread has
multiplied it adds up by itself, and threads exchange their sums once, at the end. The first step is fetched into
registers ahead of time where x comes from the kernel just ahead. A norm is applied here: rstd is a factor of the
product, and is summed up on the way.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from ._gemm_epilogues import store_tiles, weight_rows


@triton.jit
def vector_gemm(
    x, norm_weight, weight, out, residual, epsilon,
    N: tl.constexpr, K: tl.constexpr, GATED: tl.constexpr, HAS_RESIDUAL: tl.constexpr, NORM_INPUT: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, STAGES: tl.constexpr, DEPENDENT_LAUNCH: tl.constexpr,
    WAITS: tl.constexpr,
):  # fmt: skip
    """Program n: tiles n of x [1, K] times weight^T, as `_gemm_epilogues` has them without ROPE."""
    tile_n = tl.program_id(0)
    first_row, second_row = weight_rows(tile_n, N, 1, 1, BLOCK_N, GATED, False)
    column = tl.arange(0, BLOCK_K)[None, :]
    first_at = weight + first_row.to(tl.int64)[:, None] * K + column
    second_at = weight + second_row.to(tl.int64)[:, None] * K + column
    if DEPENDENT_LAUNCH:
        gdc_launch_dependents()
    right_1 = _columns(first_at, column, 0, K, BLOCK_K, "evict_first")
    right_2 = _columns(second_at, column, 0, K, BLOCK_K, "evict_first")
    if WAITS:
        gdc_wait()
    left, squares = _left(x, norm_weight, column, 0, K, NORM_INPUT, BLOCK_K)
    first, second = left * right_1, left * right_2
    for k in tl.range(BLOCK_K, K, BLOCK_K, num_stages=STAGES):
        right_1 = _columns(first_at, column, k, K, BLOCK_K, "evict_first")
        right_2 = _columns(second_at, column, k, K, BLOCK_K, "evict_first")
        left, more = _left(x, norm_weight, column, k, K, NORM_INPUT, BLOCK_K)
        first += left * right_1
        second += left * right_2
        squares += more
    first, second = tl.sum(first, 1)[None, :], tl.sum(second, 1)[None, :]
    if NORM_INPUT:
        inverse = tl.rsqrt(tl.sum(squares, 1) / K + epsilon)[:, None]
        first *= inverse
        second *= inverse
    store_tiles(
        first, second, tl.arange(0, 1), tile_n, out, None, None, residual, None, None, None, None,
        1, epsilon, N, 0, 0, 1, 1, BLOCK_N, GATED, False, HAS_RESIDUAL, False,
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
