"""The product for many tokens, in Triton: persistent programs, one tile of [BLOCK_M, 2 * BLOCK_N] after the other.

Tiles come in groups of GROUP_M rows of tiles, so that programs at work share rows of x and of the weight in L2. From
sm_90 operands come by TMA (tensor descriptors): no addresses in registers, and what lies past an edge reads as 0.
With WIDE a step is one product with both tiles of the weight, without it two. Elsewhere they come by pointers, with
rows past an edge clamped: what they give is never stored.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from ._gemm_epilogues import first_tile_row, store_tiles, weight_rows


@triton.jit
def tile_gemm(
    x, weight, out, k_out, v_out, residual, q_norm_weight, k_norm_weight, cos_sin, positions, M, epsilon,
    N: tl.constexpr, K: tl.constexpr, NUM_HEADS: tl.constexpr, NUM_KV_HEADS: tl.constexpr, HALF: tl.constexpr,
    HALF_BLOCK: tl.constexpr, GATED: tl.constexpr, ROPE: tl.constexpr, HAS_RESIDUAL: tl.constexpr,
    HAS_NORM: tl.constexpr, TILES_N: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr, GROUP_M: tl.constexpr, STAGES: tl.constexpr, FLATTEN: tl.constexpr, TMA: tl.constexpr,
    WIDE: tl.constexpr, NUM_PROGRAMS: tl.constexpr, DEPENDENT_LAUNCH: tl.constexpr,
):  # fmt: skip
    """Program p: tiles p, p + NUM_PROGRAMS, .. of x [M, K] times weight^T. The rest: see `_gemm_epilogues`."""
    if DEPENDENT_LAUNCH:
        gdc_launch_dependents()
        gdc_wait()
    tiles_m = tl.cdiv(M, BLOCK_M)
    for tile in tl.range(tl.program_id(0), tiles_m * TILES_N, NUM_PROGRAMS, flatten=FLATTEN):
        group = tile // (GROUP_M * TILES_N)
        size = tl.minimum(tiles_m - group * GROUP_M, GROUP_M)
        tile_m = group * GROUP_M + tile % (GROUP_M * TILES_N) % size
        tile_n = tile % (GROUP_M * TILES_N) // size
        if WIDE:
            first, second = _wide_products(x, weight, tile_m, tile_n, K, GATED, BLOCK_M, BLOCK_N, BLOCK_K, STAGES)
        else:
            first, second = _products(
                x, weight, tile_m, tile_n, M, N, K, HALF, HALF_BLOCK, GATED, ROPE, BLOCK_M, BLOCK_N, BLOCK_K, STAGES,
                TMA,
            )  # fmt: skip
        store_tiles(
            first, second, tile_m * BLOCK_M + tl.arange(0, BLOCK_M), tile_n, out, k_out, v_out, residual,
            q_norm_weight, k_norm_weight, cos_sin, positions, M, epsilon, N, NUM_HEADS, NUM_KV_HEADS, HALF, HALF_BLOCK,
            BLOCK_N, GATED, ROPE, HAS_RESIDUAL, HAS_NORM,
        )  # fmt: skip


@triton.jit
def _products(
    x, weight, tile_m, tile_n, M, N: tl.constexpr, K: tl.constexpr, HALF: tl.constexpr, HALF_BLOCK: tl.constexpr,
    GATED: tl.constexpr, ROPE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    STAGES: tl.constexpr, TMA: tl.constexpr,
):  # fmt: skip
    """Both tiles, [BLOCK_M, BLOCK_N] float32."""
    first = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    second = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    if TMA:
        first_row, distance = first_tile_row(tile_n, N, BLOCK_N, GATED)
        for k in tl.range(0, K, BLOCK_K, num_stages=STAGES):
            left = x.load([tile_m * BLOCK_M, k])
            first = tl.dot(left, weight.load([first_row, k]).T, acc=first)
            second = tl.dot(left, weight.load([first_row + distance, k]).T, acc=second)
    else:
        row = tl.minimum(tile_m * BLOCK_M + tl.arange(0, BLOCK_M), M - 1).to(tl.int64)
        first_row, second_row = weight_rows(tile_n, N, HALF, HALF_BLOCK, BLOCK_N, GATED, ROPE)
        column = tl.arange(0, BLOCK_K)
        left_at = x + row[:, None] * K + column[None, :]
        first_at = weight + first_row.to(tl.int64)[:, None] * K + column[None, :]
        second_at = weight + second_row.to(tl.int64)[:, None] * K + column[None, :]
        for k in tl.range(0, K, BLOCK_K, num_stages=STAGES):
            if K % BLOCK_K == 0:
                left, right_1, right_2 = tl.load(left_at + k), tl.load(first_at + k), tl.load(second_at + k)
            else:
                inside = (column < K - k)[None, :]
                left = tl.load(left_at + k, mask=inside, other=0.0)
                right_1 = tl.load(first_at + k, mask=inside, other=0.0)
                right_2 = tl.load(second_at + k, mask=inside, other=0.0)
            first = tl.dot(left, right_1.T, acc=first)
            second = tl.dot(left, right_2.T, acc=second)
    return first, second


@triton.jit
def _wide_products(
    x, weight, tile_m, tile_n, K: tl.constexpr, GATED: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """As `_products`, with both tiles of the weight as one operand, so that x is read once from shared memory. With
    GATED `weight` is [2, N, K]."""
    both = tl.zeros([BLOCK_M, 2 * BLOCK_N], tl.float32)
    for k in tl.range(0, K, BLOCK_K, num_stages=STAGES):
        left = x.load([tile_m * BLOCK_M, k])
        if GATED:
            right = weight.load([0, tile_n * BLOCK_N, k]).reshape(2 * BLOCK_N, BLOCK_K)
        else:
            right = weight.load([tile_n * 2 * BLOCK_N, k])
        both = tl.dot(left, right.T, acc=both)
    return tl.split(tl.permute(tl.reshape(both, [BLOCK_M, 2, BLOCK_N]), [0, 2, 1]))
