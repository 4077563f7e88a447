"""The product for few tokens, in Triton: the weight streams through once, at the bandwidth of memory.

All tokens are one tile. Program (n, s) takes two tiles of weight rows and part s of K. Programs are as many as are
resident at once: they share the bandwidth evenly and end together. Where the weight has too few rows for that, K is
split: each part stores its sums, and the part that arrives last adds them up, in a fixed order, and goes on.

SWAP computes weight . x^T instead: the weight's rows are then the rows of the matrix instruction (64 of wgmma's), and
tokens, of which 8 suffice, its columns. With TMA operands come by tensor descriptors; only the prefetch needs pointers.

A norm of few tokens is applied here: rstd of a row is a factor of the product's row, and is summed up on the way.
A dependent launch starts on its weight, which no earlier kernel writes, ahead of time: it is prefetched to L2.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from ._gemm_epilogues import first_tile_row, store_tiles, weight_rows

LINE = tl.constexpr(64)  # 16-bit values in 128 bytes, what a prefetch brings


@triton.jit
def prefetch(weight, row, first_column, last_column, K: tl.constexpr, LINES: tl.constexpr):
    """Bring LINES lines of every row to L2, from `first_column` on."""
    column = tl.minimum(first_column + tl.arange(0, LINES) * LINE, last_column)
    at = weight + row.to(tl.int64)[:, None] * K + column[None, :]
    tl.inline_asm_elementwise(
        "prefetch.global.L2 [$1]; mov.u32 $0, 0;", "=r,l", [at], dtype=tl.int32, is_pure=False, pack=1
    )


@triton.jit
def skinny_gemm(
    x, norm_weight, weight, x_tiles, weight_tiles, out, k_out, v_out, residual, q_norm_weight, k_norm_weight,
    cos_sin, positions, partial, counters, next_counters, num_next_counters, M, epsilon,
    N: tl.constexpr, K: tl.constexpr, NUM_HEADS: tl.constexpr, NUM_KV_HEADS: tl.constexpr, HALF: tl.constexpr,
    HALF_BLOCK: tl.constexpr, MODE: tl.constexpr, HAS_RESIDUAL: tl.constexpr, HAS_NORM: tl.constexpr,
    NORM_INPUT: tl.constexpr, SPLITS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr, STAGES: tl.constexpr, PREFETCH_LINES: tl.constexpr, BLOCK_C: tl.constexpr,
    SWAP: tl.constexpr, TMA: tl.constexpr, DEPENDENT_LAUNCH: tl.constexpr, WAITS: tl.constexpr,
):  # fmt: skip
    """Program (n, s): tiles n of x [M, K] times weight^T over part s of K. The rest: see `_gemm_epilogues`.

    `partial` [tiles, SPLITS, 2, BLOCK_M, BLOCK_N] float32 and `counters` [tiles] int32, all 0, where SPLITS > 1.
    A program zeroes the BLOCK_C, at most, of a later kernel.
    """
    tile_n, part = tl.program_id(0), tl.program_id(1)
    first_row, second_row = weight_rows(tile_n, N, HALF, HALF_BLOCK, BLOCK_N, MODE)
    steps: tl.constexpr = (K + BLOCK_K - 1) // BLOCK_K
    begin, end = steps * part // SPLITS * BLOCK_K, steps * (part + 1) // SPLITS * BLOCK_K
    if DEPENDENT_LAUNCH:
        gdc_launch_dependents()
    if WAITS:
        prefetch(weight, first_row, begin, K - 1, K, PREFETCH_LINES)
        prefetch(weight, second_row, begin, K - 1, K, PREFETCH_LINES)
        gdc_wait()
    if BLOCK_C > 0:  # noqa: SIM102 - decided when it is compiled
        if (tile_n == 0) & (part == 0):
            counter = tl.arange(0, BLOCK_C)
            tl.store(next_counters + counter, tl.zeros([BLOCK_C], tl.int32), mask=counter < num_next_counters)
    row = tl.arange(0, BLOCK_M)
    if TMA:
        first, second = _sums_of_tiles(
            x_tiles, weight_tiles, tile_n, begin, end, N, MODE, SWAP, BLOCK_M, BLOCK_N, BLOCK_K, STAGES
        )
    else:
        first, second = _sums(
            x, norm_weight, weight, first_row, second_row, row, begin, end, M, epsilon, K, NORM_INPUT, SWAP, BLOCK_M,
            BLOCK_N, BLOCK_K, STAGES,
        )  # fmt: skip
    if SWAP:
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
            M, epsilon, N, NUM_HEADS, NUM_KV_HEADS, HALF, HALF_BLOCK, BLOCK_N, MODE, HAS_RESIDUAL, HAS_NORM,
        )  # fmt: skip


@triton.jit
def _sums(
    x, norm_weight, weight, first_row, second_row, row, begin, end, M, epsilon, K: tl.constexpr,
    NORM_INPUT: tl.constexpr, SWAP: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    """Both tiles over columns [begin, end) of K, [BLOCK_M, BLOCK_N] float32, or with SWAP their transposes."""
    first, second = _no_sums(SWAP, BLOCK_M, BLOCK_N)
    squares = tl.zeros([BLOCK_M, BLOCK_K], tl.float32)  # summed up at the end: no exchange between threads on the way
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
        if NORM_INPUT:
            values = left.to(tl.float32)
            squares += values * values
            scale = tl.load(norm_weight + k + column, mask=column < K - k, other=0.0).to(tl.float32)
            left = (values * scale[None, :]).to(left.dtype)
        first = _added(left, right_1, first, SWAP)
        second = _added(left, right_2, second, SWAP)
    if NORM_INPUT:
        inverse = tl.rsqrt(tl.sum(squares, 1) / K + epsilon)
        inverse = inverse[None, :] if SWAP else inverse[:, None]
        first *= inverse
        second *= inverse
    return first, second


@triton.jit
def _sums_of_tiles(
    x, weight, tile_n, begin, end, N: tl.constexpr, MODE: tl.constexpr, SWAP: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """As `_sums`, from tensor descriptors. A step past K reads zeros, tokens and rows that do not exist as well."""
    first, second = _no_sums(SWAP, BLOCK_M, BLOCK_N)
    first_row, distance = first_tile_row(tile_n, N, BLOCK_N, MODE)
    for k in tl.range(begin, end, BLOCK_K, num_stages=STAGES):
        right_1 = weight.load([first_row, k])
        right_2 = weight.load([first_row + distance, k])
        left = x.load([0, k])
        first = _added(left, right_1, first, SWAP)
        second = _added(left, right_2, second, SWAP)
    return first, second


@triton.jit
def _no_sums(SWAP: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """Zeros for both tiles."""
    if SWAP:
        first = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
        second = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    else:
        first = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
        second = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    return first, second


@triton.jit
def _added(left, right, sums, SWAP: tl.constexpr):
    """`sums` plus left [BLOCK_M, BLOCK_K] times right^T, or its transpose."""
    if SWAP:
        sums = tl.dot(right, left.T, acc=sums)
    else:
        sums = tl.dot(left, right.T, acc=sums)
    return sums
