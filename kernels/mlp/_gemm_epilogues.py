"""What both products of this family do with their accumulators, in Triton.

A program computes two tiles of x . weight^T at once, `first` and `second`, [BLOCK_M, BLOCK_N] each. Which rows of the
weight they belong to depends on what is to be done with them (GATED, ROPE):

    gated      column c of the gate and column c of up                          silu(first) * second is stored
    rope       element i of a head's first half and of its second half          both are normed and turned, then stored
    neither    neighbouring columns                                             both are stored, with a residual or not

so that SwiGLU and the rotation combine values of one thread, and no intermediate result goes to memory.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ._activation import silu


@triton.jit
def weight_rows(
    tile_n, N: tl.constexpr, HALF: tl.constexpr, HALF_BLOCK: tl.constexpr, BLOCK_N: tl.constexpr, GATED: tl.constexpr,
    ROPE: tl.constexpr,
):  # fmt: skip
    """Rows of the weight for both tiles, [BLOCK_N] each, clamped to those that exist. N: see `store_tiles`."""
    column = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    if GATED:
        first = tl.minimum(column, N - 1)
        return first, first + N
    if ROPE:
        first = tl.minimum(column // HALF_BLOCK, N - 1) * (2 * HALF) + tl.minimum(column % HALF_BLOCK, HALF - 1)
        return first, first + HALF
    first = column + tile_n * BLOCK_N
    return tl.minimum(first, N - 1), tl.minimum(first + BLOCK_N, N - 1)


@triton.jit
def first_tile_row(tile_n, N: tl.constexpr, BLOCK_N: tl.constexpr, GATED: tl.constexpr):
    """(first row of the first tile, rows from there to the second one's), where tiles are blocks of the weight's rows:
    with ROPE BLOCK_N is half a head."""
    if GATED:
        return tile_n * BLOCK_N, N
    return tile_n * 2 * BLOCK_N, BLOCK_N


@triton.jit
def store_tiles(
    first, second, row, tile_n, out, k_out, v_out, residual, q_norm_weight, k_norm_weight, cos_sin, positions,
    M, epsilon, N: tl.constexpr, NUM_HEADS: tl.constexpr, NUM_KV_HEADS: tl.constexpr, HALF: tl.constexpr,
    HALF_BLOCK: tl.constexpr, BLOCK_N: tl.constexpr, GATED: tl.constexpr, ROPE: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr, HAS_NORM: tl.constexpr,
):  # fmt: skip
    """Finish rows `row` [BLOCK_M] of both tiles. N: columns of `out`, or with ROPE heads of q, k and v."""
    if ROPE:
        _store_heads(
            first, second, row, tile_n, out, k_out, v_out, q_norm_weight, k_norm_weight, cos_sin, positions,
            M, epsilon, N, NUM_HEADS, NUM_KV_HEADS, HALF, HALF_BLOCK, BLOCK_N, HAS_NORM,
        )  # fmt: skip
    elif GATED:
        _store_columns(silu(first) * second, row, tile_n * BLOCK_N, out, residual, M, N, BLOCK_N, False)
    else:
        _store_columns(first, row, tile_n * 2 * BLOCK_N, out, residual, M, N, BLOCK_N, HAS_RESIDUAL)
        _store_columns(second, row, tile_n * 2 * BLOCK_N + BLOCK_N, out, residual, M, N, BLOCK_N, HAS_RESIDUAL)


@triton.jit
def _store_columns(
    values, row, first_column, out, residual, M, N: tl.constexpr, BLOCK_N: tl.constexpr, HAS_RESIDUAL: tl.constexpr
):
    """`values`, with the residual added in float32, to columns [first_column, ..) of [M, N]."""
    column = first_column + tl.arange(0, BLOCK_N)
    mask = (row < M)[:, None] & (column < N)[None, :]
    at = row.to(tl.int64)[:, None] * N + column[None, :]
    if HAS_RESIDUAL:
        values += tl.load(residual + at, mask=mask, other=0.0).to(tl.float32)
    tl.store(out + at, values.to(out.dtype.element_ty), mask=mask)


@triton.jit
def _store_heads(
    first, second, row, tile_n, q_out, k_out, v_out, q_norm_weight, k_norm_weight, cos_sin, positions, M, epsilon,
    HEADS: tl.constexpr, NUM_HEADS: tl.constexpr, NUM_KV_HEADS: tl.constexpr, HALF: tl.constexpr,
    HALF_BLOCK: tl.constexpr, BLOCK_N: tl.constexpr, HAS_NORM: tl.constexpr,
):  # fmt: skip
    """Norm and turn the heads of queries and keys; store all to [M, heads, 2 * HALF]."""
    FIRST_VALUE: tl.constexpr = NUM_HEADS + NUM_KV_HEADS
    column = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    head, i = column // HALF_BLOCK, column % HALF_BLOCK
    if tile_n * BLOCK_N // HALF_BLOCK < FIRST_VALUE:  # some head is not a value
        is_query, is_turned = head < NUM_HEADS, (head < FIRST_VALUE)[None, :]
        a, b = first, second
        if HAS_NORM:
            inside = i < HALF
            inverse = _inverse_norm(a, b, inside, epsilon, HALF, HALF_BLOCK, BLOCK_N)
            a *= inverse * _head_weight(q_norm_weight, k_norm_weight, is_query, i, inside)
            b *= inverse * _head_weight(q_norm_weight + HALF, k_norm_weight + HALF, is_query, i, inside)
        position = tl.load(positions + row, mask=row < M, other=0)
        at = cos_sin + position[:, None] * (2 * HALF) + tl.minimum(i, HALF - 1)[None, :]
        cos, sin = tl.load(at), tl.load(at + HALF)
        turned = a * cos - b * sin
        second = tl.where(is_turned, b * cos + a * sin, second)
        first = tl.where(is_turned, turned, first)
    _store_some(first, second, row, head, i, q_out, 0, NUM_HEADS, M, tile_n, HALF, HALF_BLOCK, BLOCK_N)
    _store_some(first, second, row, head, i, k_out, NUM_HEADS, NUM_KV_HEADS, M, tile_n, HALF, HALF_BLOCK, BLOCK_N)
    _store_some(first, second, row, head, i, v_out, FIRST_VALUE, NUM_KV_HEADS, M, tile_n, HALF, HALF_BLOCK, BLOCK_N)


@triton.jit
def _inverse_norm(a, b, inside, epsilon, HALF: tl.constexpr, HALF_BLOCK: tl.constexpr, BLOCK_N: tl.constexpr):
    """1 / sqrt(mean of a head's squares + epsilon) for every element, [BLOCK_M, BLOCK_N]."""
    BLOCK_M: tl.constexpr = a.shape[0]
    GROUPS: tl.constexpr = BLOCK_N // HALF_BLOCK
    squares = tl.where(inside[None, :], a * a + b * b, 0.0)
    if GROUPS == 1:
        inverse = tl.rsqrt(tl.sum(squares, 1) / (2 * HALF) + epsilon)
        spread = tl.broadcast_to(inverse[:, None], [BLOCK_M, BLOCK_N])
    else:
        of_head = tl.sum(tl.reshape(squares, [BLOCK_M, GROUPS, HALF_BLOCK]), 2)
        inverse = tl.rsqrt(of_head / (2 * HALF) + epsilon)
        groups = tl.broadcast_to(inverse[:, :, None], [BLOCK_M, GROUPS, HALF_BLOCK])
        spread = tl.reshape(groups, [BLOCK_M, BLOCK_N])
    return spread


@triton.jit
def _head_weight(of_queries, of_keys, is_query, i, inside):
    """The norm's weight of every column, [1, BLOCK_N] float32."""
    query = tl.load(of_queries + i, mask=inside & is_query, other=0.0).to(tl.float32)
    key = tl.load(of_keys + i, mask=inside & (is_query == 0), other=0.0).to(tl.float32)
    return (query + key)[None, :]


@triton.jit
def _store_some(
    first, second, row, head, i, out, FIRST: tl.constexpr, COUNT: tl.constexpr, M, tile_n,
    HALF: tl.constexpr, HALF_BLOCK: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Those of the heads [FIRST, FIRST + COUNT) that the tiles hold, to [M, COUNT, 2 * HALF]."""
    begin = tile_n * BLOCK_N // HALF_BLOCK
    end = (tile_n * BLOCK_N + BLOCK_N - 1) // HALF_BLOCK + 1
    if (begin < FIRST + COUNT) & (end > FIRST):
        mask = (row < M)[:, None] & ((head >= FIRST) & (head < FIRST + COUNT) & (i < HALF))[None, :]
        at = out + row.to(tl.int64)[:, None] * (COUNT * 2 * HALF) + ((head - FIRST) * (2 * HALF) + i)[None, :]
        tl.store(at, first.to(out.dtype.element_ty), mask=mask)
        tl.store(at + HALF, second.to(out.dtype.element_ty), mask=mask)
