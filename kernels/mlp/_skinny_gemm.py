"""The product for few tokens, in Triton: the weight streams through once, at the bandwidth of memory.

All tokens are one tile. Program (n, s) takes two tiles of weight rows and part s of K. Programs are as many as are
resident at once: they share the bandwidth evenly and end together. Where the weight has too few rows for that, K is
split: each part stores its sums, and the part that arrives last adds them up, in a fixed order, and goes on.

It computes weight . x^T: the weight's rows are the rows of the matrix instruction (64 of wgmma's), and tokens, which
may be fewer, its columns. With TMA operands come by tensor descriptors; only the prefetch needs pointers.

A dependent launch starts on its weight, which no earlier kernel writes, ahead of time: PREFETCH lines of 128 bytes of
each row are prefetched to L2, one by hand. (H200, 16 tokens: 53.4 us, with 512 bytes 56.1, with 1024 bytes 59.5.)
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from ._gemm_epilogues import first_tile_row, store_tiles, weight_rows
from ._norm_kernels import zero_counters


@triton.jit
def _prefetch(weight, row, column, K: tl.constexpr):
    """Bring 128 bytes of every row to L2, from `column` on."""
    tl.inline_asm_elementwise(
        "prefetch.global.L2 [$1]; mov.u32 $0, 0;", "=r,l", [weight + row.to(tl.int64) * K + column], dtype=tl.int32,
        is_pure=False, pack=1,
    )  # fmt: skip


@triton.jit
def skinny_gemm(
    x, weight, x_tiles, weight_tiles, out, k_out, v_out, residual, q_norm_weight, k_norm_weight,
    cos_sin, positions, partial, counters, next_counters, num_next_counters, M, epsilon,
    N: tl.constexpr, K: tl.constexpr, NUM_HEADS: tl.constexpr, NUM_KV_HEADS: tl.constexpr, HALF: tl.constexpr,
    HALF_BLOCK: tl.constexpr, GATED: tl.constexpr, ROPE: tl.constexpr, HAS_RESIDUAL: tl.constexpr,
    HAS_NORM: tl.constexpr, SPLITS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    STAGES: tl.constexpr, BLOCK_C: tl.constexpr, TMA: tl.constexpr, PREFETCH: tl.constexpr,
    DEPENDENT_LAUNCH: tl.constexpr, WAITS: tl.constexpr,
):  # fmt: skip
    """Program (n, s): tiles n of x [M, K] times weight^T over part s of K. The rest: see `_gemm_epilogues`.

    `partial` [tiles, SPLITS, 2, BLOCK_M, BLOCK_N] float32 and `counters` [tiles] int32, all 0, where SPLITS > 1.
    A program zeroes the BLOCK_C, at most, of a later kernel.
    """
    tile_n, part = tl.program_id(0), tl.program_id(1)
    first_row, second_row = weight_rows(tile_n, N, HALF, HALF_BLOCK, BLOCK_N, GATED, ROPE)
    steps: tl.constexpr = (K + BLOCK_K - 1) // BLOCK_K
    begin, end = steps * part // SPLITS * BLOCK_K, steps * (part + 1) // SPLITS * BLOCK_K
    if DEPENDENT_LAUNCH:
        gdc_launch_dependents()
    if WAITS:
        for line in tl.static_range(PREFETCH):
            column = tl.minimum(begin + line * 64, K - 1) if line > 0 else begin
            _prefetch(weight, first_row, column, K)
            _prefetch(weight, second_row, column, K)
        gdc_wait()
    if BLOCK_C > 0:
        zero_counters(next_counters, num_next_counters, (tile_n == 0) & (part == 0), BLOCK_C)
    row = tl.arange(0, BLOCK_M)
    if TMA:
        first, second = _sums_of_tiles(
            x_tiles, weight_tiles, tile_n, begin, end, N, GATED, BLOCK_M, BLOCK_N, BLOCK_K, STAGES
        )
    else:
        first, second = _sums(
            x, weight, first_row, second_row, row, begin, end, M, K, BLOCK_M, BLOCK_N, BLOCK_K, STAGES
        )
    first, second = first.T, second.T
    arrived = SPLITS - 1
    if SPLITS > 1:
        at = tl.arange(0, BLOCK_M)[:, None] * BLOCK_N + tl.arange(0, BLOCK_N)[None, :]
        TILE: tl.constexpr = BLOCK_M * BLOCK_N
        sums = partial + tile_n.to(tl.int64) * (SPLITS * 2 * TILE) + at
        tl.store(sums + part * (2 * TILE), first)
        tl.store(sums + part * (2 * TILE) + TILE, second)
        tl.debug_barrier()  # all of the program's sums are stored before it says so
        arrived = tl.atomic_add(counters + tile_n, 1, sem="acq_rel", scope="gpu")
        if arrived == SPLITS - 1:
            first = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
            second = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
            for each in tl.static_range(SPLITS):
                first += tl.load(sums + each * (2 * TILE), cache_modifier=".cg")
                second += tl.load(sums + each * (2 * TILE) + TILE, cache_modifier=".cg")
    if arrived == SPLITS - 1:
        store_tiles(
            first, second, row, tile_n, out, k_out, v_out, residual, q_norm_weight, k_norm_weight, cos_sin, positions,
            M, epsilon, N, NUM_HEADS, NUM_KV_HEADS, HALF, HALF_BLOCK, BLOCK_N, GATED, ROPE, HAS_RESIDUAL,
            HAS_NORM,
        )  # fmt: skip


@triton.jit
def _sums(
    x, weight, first_row, second_row, row, begin, end, M, K: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Both tiles over columns [begin, end) of K, [BLOCK_N, BLOCK_M] float32."""
    first = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    second = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    column = tl.arange(0, BLOCK_K)
    left_at = x + tl.minimum(row, M - 1).to(tl.int64)[:, None] * K + column[None, :]
    first_at = weight + first_row.to(tl.int64)[:, None] * K + column[None, :]
    second_at = weight + second_row.to(tl.int64)[:, None] * K + column[None, :]
    for k in tl.range(begin, end, BLOCK_K, num_stages=STAGES):
        if K % BLOCK_K == 0:
            right_1 = tl.load(first_at + k, eviction_policy="evict_first")
            right_2 = tl.load(second_at + k, eviction_policy="evict_first")
            left = tl.load(left_at + k, eviction_policy="evict_last")
        else:
            inside = (column < K - k)[None, :]
            right_1 = tl.load(first_at + k, mask=inside, other=0.0)
            right_2 = tl.load(second_at + k, mask=inside, other=0.0)
            left = tl.load(left_at + k, mask=inside, other=0.0)
        first = tl.dot(right_1, left.T, acc=first)
        second = tl.dot(right_2, left.T, acc=second)
    return first, second


@triton.jit
def _sums_of_tiles(
    x, weight, tile_n, begin, end, N: tl.constexpr, GATED: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """As `_sums`, from tensor descriptors. A step past K reads zeros, tokens and rows that do not exist as well."""
    first = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    second = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    first_row, distance = first_tile_row(tile_n, N, BLOCK_N, GATED)
    for k in tl.range(begin, end, BLOCK_K, num_stages=STAGES):
        right_1 = weight.load([first_row, k])
        right_2 = weight.load([first_row + distance, k])
        left = x.load([0, k])
        first = tl.dot(right_1, left.T, acc=first)
        second = tl.dot(right_2, left.T, acc=second)
    return first, second
