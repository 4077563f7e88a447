"""The Triton kernels of layer_triton, which says what they are for.

Where `DEPENDENT_LAUNCH` is set, a kernel is launched while the one before it still runs: each lets the next one start
at once, and waits for the one before to end before it reads or writes anything.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait


@triton.jit
def _matmul(
    x, w, inner, is_row, is_column, first_step, last_step,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, INNER: tl.constexpr, IS_EVEN: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Steps [first_step, last_step) of x . W^T, float32; `x` [ROWS, 1] and `w` [COLUMNS, 1] point at rows."""
    acc = tl.zeros([ROWS, COLUMNS], tl.float32)
    for step in tl.range(first_step, last_step, num_stages=STAGES):
        k = step * INNER + tl.arange(0, INNER)[None, :]
        if IS_EVEN:
            x_tile = tl.load(x + k, mask=is_row, other=0.0)
            w_tile = tl.load(w + k, mask=is_column, other=0.0)
        else:
            x_tile = tl.load(x + k, mask=is_row & (k < inner), other=0.0)
            w_tile = tl.load(w + k, mask=is_column & (k < inner), other=0.0)
        acc = tl.dot(x_tile, w_tile.T, acc=acc)
    return acc


@triton.jit
def project(
    x, w, out, batch, columns, inner,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, INNER: tl.constexpr, SPLITS: tl.constexpr, IS_EVEN: tl.constexpr,
    STAGES: tl.constexpr, DEPENDENT_LAUNCH: tl.constexpr,
):  # fmt: skip
    """Program (i, j, p): part p of the inner dimension, rows i, columns j of x . W^T; out [splits, batch, columns].

    Row blocks are neighbours in the grid: they read the same weights at the same time, once from memory.
    """
    if DEPENDENT_LAUNCH:
        gdc_launch_dependents()
        gdc_wait()
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    part = tl.program_id(2)
    steps = tl.cdiv(inner, INNER)
    acc = _matmul(
        x + (row * inner)[:, None], w + (column.to(tl.int64) * inner)[:, None], inner,
        (row < batch)[:, None], (column < columns)[:, None], part * steps // SPLITS, (part + 1) * steps // SPLITS,
        ROWS, COLUMNS, INNER, IS_EVEN, STAGES,
    )  # fmt: skip
    pointers = out + ((part * batch + row) * columns)[:, None] + column[None, :]
    tl.store(pointers, acc.to(out.dtype.element_ty), mask=(row < batch)[:, None] & (column < columns)[None, :])


@triton.jit
def _sum_of_parts(parts, stride, offset, mask, SPLITS: tl.constexpr):
    total = tl.load(parts + offset, mask=mask, other=0.0)
    for part in tl.static_range(1, SPLITS):
        total += tl.load(parts + part * stride + offset, mask=mask, other=0.0)
    return total


@triton.jit
def _rms_norm(x, weight, size, eps):
    """x [n], zero past `size`."""
    return x * tl.rsqrt(tl.sum(x * x, 0) / size + eps) * weight


@triton.jit
def _angles(cos_sin, position, ROPE: tl.constexpr):
    """(cosines, sines) [..., ROPE / 2] of a position or of a column of positions."""
    pointers = cos_sin + position * ROPE + tl.arange(0, ROPE // 2)
    return tl.load(pointers), tl.load(pointers + ROPE // 2)


@triton.jit
def _append(
    parts, stride, kv_norm, cos_sin, block_table_row, position, kv_cache, eps,
    LATENT: tl.constexpr, ROPE: tl.constexpr, PAGE_SIZE: tl.constexpr, SPLITS: tl.constexpr,
):  # fmt: skip
    """A new row: `parts` points at its latent, behind which its rope part lies."""
    page = tl.load(block_table_row + position // PAGE_SIZE)
    row = kv_cache + (page.to(tl.int64) * PAGE_SIZE + position % PAGE_SIZE) * (LATENT + ROPE)
    column = tl.arange(0, LATENT)
    x = _sum_of_parts(parts, stride, column, column < LATENT, SPLITS)
    x = _rms_norm(x, tl.load(kv_norm + column).to(tl.float32), LATENT, eps)
    tl.store(row + column, x.to(kv_cache.dtype.element_ty))

    pair = 2 * tl.arange(0, ROPE // 2)
    even = _sum_of_parts(parts + LATENT, stride, pair, pair < ROPE, SPLITS)
    odd = _sum_of_parts(parts + LATENT, stride, pair + 1, pair < ROPE, SPLITS)
    cos, sin = _angles(cos_sin, position, ROPE)
    tl.store(row + LATENT + pair, (even * cos - odd * sin).to(kv_cache.dtype.element_ty))
    tl.store(row + LATENT + pair + 1, (even * sin + odd * cos).to(kv_cache.dtype.element_ty))


@triton.jit
def norm_and_append(
    parts, q_norm, kv_norm, cos_sin, block_table, seq_lens, normalised, kv_cache, batch, max_pages, eps,
    Q_RANK: tl.constexpr, Q_RANK_BLOCK: tl.constexpr, LATENT: tl.constexpr, ROPE: tl.constexpr,
    PAGE_SIZE: tl.constexpr, SPLITS: tl.constexpr, DEPENDENT_LAUNCH: tl.constexpr,
):  # fmt: skip
    """Program (b, 0): the normalised query latent of sequence b. Program (b, 1): its new row, into the cache."""
    if DEPENDENT_LAUNCH:
        gdc_launch_dependents()
        gdc_wait()
    sequence = tl.program_id(0)
    stride = batch * (Q_RANK + LATENT + ROPE)
    parts += sequence * (Q_RANK + LATENT + ROPE)
    if tl.program_id(1) == 1:
        _append(
            parts + Q_RANK, stride, kv_norm, cos_sin, block_table + sequence.to(tl.int64) * max_pages,
            tl.load(seq_lens + sequence) - 1, kv_cache, eps, LATENT, ROPE, PAGE_SIZE, SPLITS,
        )  # fmt: skip
        return
    column = tl.arange(0, Q_RANK_BLOCK)
    is_column = column < Q_RANK
    x = _sum_of_parts(parts, stride, column, is_column, SPLITS)
    x = _rms_norm(x, tl.load(q_norm + column, mask=is_column, other=0.0).to(tl.float32), Q_RANK, eps)
    tl.store(normalised + sequence * Q_RANK + column, x.to(normalised.dtype.element_ty), mask=is_column)


@triton.jit
def queries(
    normalised, w_q_b, w_kv_b, cos_sin, seq_lens, q, batch,
    HEADS: tl.constexpr, Q_RANK: tl.constexpr, NOPE: tl.constexpr, ROPE: tl.constexpr, V_DIM: tl.constexpr,
    LATENT: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, INNER: tl.constexpr, STAGES: tl.constexpr,
    DEPENDENT_LAUNCH: tl.constexpr,
):  # fmt: skip
    """Program (i, h): the absorbed queries of rows i for head h, q [batch, heads, LATENT + ROPE].

    Even and odd columns of the rope part are products of their own, so that a rotation needs no other thread's values.
    """
    if DEPENDENT_LAUNCH:
        gdc_launch_dependents()
        gdc_wait()
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    head = tl.program_id(1)
    is_row = (row < batch)[:, None]
    x = normalised + (row * Q_RANK)[:, None]
    w_q_b += head.to(tl.int64) * ((NOPE + ROPE) * Q_RANK)
    nope_rows = (tl.arange(0, NOPE) * Q_RANK)[:, None]
    even_rows = ((NOPE + 2 * tl.arange(0, ROPE // 2)) * Q_RANK)[:, None]
    nope = tl.zeros([ROWS, NOPE], tl.float32)
    even = tl.zeros([ROWS, ROPE // 2], tl.float32)
    odd = tl.zeros([ROWS, ROPE // 2], tl.float32)
    for first in tl.range(0, Q_RANK, INNER, num_stages=STAGES):
        k = first + tl.arange(0, INNER)[None, :]
        used = k < Q_RANK
        x_tile = tl.load(x + k, mask=is_row & used, other=0.0)
        nope = tl.dot(x_tile, tl.load(w_q_b + nope_rows + k, mask=used, other=0.0).T, acc=nope)
        even = tl.dot(x_tile, tl.load(w_q_b + even_rows + k, mask=used, other=0.0).T, acc=even)
        odd = tl.dot(x_tile, tl.load(w_q_b + even_rows + Q_RANK + k, mask=used, other=0.0).T, acc=odd)

    dtype: tl.constexpr = q.dtype.element_ty
    q_row = q + (row.to(tl.int64) * HEADS + head)[:, None] * (LATENT + ROPE)
    position = tl.load(seq_lens + row, mask=row < batch, other=1) - 1
    cos, sin = _angles(cos_sin, position[:, None], ROPE)
    pair = LATENT + 2 * tl.arange(0, ROPE // 2)[None, :]
    tl.store(q_row + pair, (even * cos - odd * sin).to(dtype), mask=is_row)
    tl.store(q_row + pair + 1, (even * sin + odd * cos).to(dtype), mask=is_row)

    nope_values = nope.to(dtype)
    w_uk = w_kv_b + head.to(tl.int64) * ((NOPE + V_DIM) * LATENT) + (tl.arange(0, NOPE) * LATENT)[:, None]
    for first in tl.range(0, LATENT, COLUMNS, num_stages=2):
        column = first + tl.arange(0, COLUMNS)[None, :]
        absorbed = tl.dot(nope_values, tl.load(w_uk + column))
        tl.store(q_row + column, absorbed.to(dtype), mask=is_row)


@triton.jit
def values(
    attended, w_kv_b, out, batch,
    HEADS: tl.constexpr, NOPE: tl.constexpr, V_DIM: tl.constexpr, LATENT: tl.constexpr, ROWS: tl.constexpr,
    INNER: tl.constexpr, STAGES: tl.constexpr, DEPENDENT_LAUNCH: tl.constexpr,
):  # fmt: skip
    """Program (i, h): W_uv of head h times the attended latents of rows i; out [batch, heads, V_DIM]."""
    if DEPENDENT_LAUNCH:
        gdc_launch_dependents()
        gdc_wait()
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    head = tl.program_id(1)
    is_row = (row < batch)[:, None]
    at = row.to(tl.int64) * HEADS + head
    w_uv = w_kv_b + (head.to(tl.int64) * (NOPE + V_DIM) + NOPE) * LATENT + (tl.arange(0, V_DIM) * LATENT)[:, None]
    acc = _matmul(
        attended + (at * LATENT)[:, None], w_uv, LATENT, is_row, True, 0, LATENT // INNER,
        ROWS, V_DIM, INNER, True, STAGES,
    )  # fmt: skip
    pointers = out + (at * V_DIM)[:, None] + tl.arange(0, V_DIM)[None, :]
    tl.store(pointers, acc.to(out.dtype.element_ty), mask=is_row)


@triton.jit
def add_parts(parts, out, size, SPLITS: tl.constexpr, BLOCK: tl.constexpr, DEPENDENT_LAUNCH: tl.constexpr):
    """out [size] = the sum of parts [SPLITS, size], always in the same order."""
    if DEPENDENT_LAUNCH:
        gdc_launch_dependents()
        gdc_wait()
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    total = _sum_of_parts(parts, size, index, index < size, SPLITS)
    tl.store(out + index, total.to(out.dtype.element_ty), mask=index < size)
