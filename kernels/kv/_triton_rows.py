"""Pieces of the Triton kernels that rotate and append: tiles of [tokens, heads, columns], moved by 16 bytes.

Rows are HEAD_DIM apart. `source_row` and `target_row` are [BLOCK_T, BLOCK_H] int64, rows of a dense tensor or of a
cache seen as [rows, HEAD_DIM]: caches exceed 2^31 elements. What is not in `read` or `write` is left alone. Columns are
taken in blocks of a power of two, which a mask ends.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def stored(x, inverse_scale, FP8_MAX: tl.constexpr, dtype: tl.constexpr):
    """What a cache holds of x: in an e4m3 cache scaled and saturated, else x. FP8_MAX is 0 for all other types."""
    if FP8_MAX > 0:
        x = x.to(tl.float32) * inverse_scale
        x = tl.minimum(tl.maximum(x, -FP8_MAX), FP8_MAX)
    return x.to(dtype)


@triton.jit
def move_columns(
    source, target, source_row, target_row, read, write, inverse_scale,
    HEAD_DIM: tl.constexpr, FIRST: tl.constexpr, COUNT: tl.constexpr, FP8_MAX: tl.constexpr,
    LOAD_POLICY: tl.constexpr, STORE_MODIFIER: tl.constexpr,
):  # fmt: skip
    """Columns [FIRST, FIRST + COUNT) of every row, as they are."""
    BLOCK: tl.constexpr = triton.next_power_of_2(COUNT)
    column = tl.arange(0, BLOCK)[None, None, :]
    inside = column < COUNT
    x = tl.load(
        source + source_row[:, :, None] * HEAD_DIM + FIRST + column,
        mask=read[:, :, None] & inside,
        other=0.0,
        eviction_policy=LOAD_POLICY,
    )
    tl.store(
        target + target_row[:, :, None] * HEAD_DIM + FIRST + column,
        stored(x, inverse_scale, FP8_MAX, target.dtype.element_ty),
        mask=write[:, :, None] & inside,
        cache_modifier=STORE_MODIFIER,
    )


@triton.jit
def turn_rows(
    source, target, source_row, target_row, read, write, cos_sin_cache, position, is_token, inverse_scale,
    HEAD_DIM: tl.constexpr, TARGET_DIM: tl.constexpr, TARGET_FIRST: tl.constexpr, ROTARY_DIM: tl.constexpr,
    IS_NEOX: tl.constexpr, FP8_MAX: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_H: tl.constexpr,
    LOAD_POLICY: tl.constexpr, STORE_MODIFIER: tl.constexpr,
):  # fmt: skip
    """The first ROTARY_DIM columns of every row, turned by the angles of its token's position [BLOCK_T].

    They become columns from TARGET_FIRST on of rows that are TARGET_DIM apart.
    """
    HALF: tl.constexpr = ROTARY_DIM // 2
    BLOCK: tl.constexpr = triton.next_power_of_2(HALF)
    dtype: tl.constexpr = target.dtype.element_ty
    pair = tl.arange(0, BLOCK)
    angle = cos_sin_cache + position[:, None] * ROTARY_DIM + pair[None, :]
    known = is_token[:, None] & (pair < HALF)[None, :]
    from_row = source + source_row[:, :, None] * HEAD_DIM
    to_row = target + target_row[:, :, None] * TARGET_DIM + TARGET_FIRST
    if IS_NEOX:
        column = pair[None, None, :]
        readable, writable = read[:, :, None] & (column < HALF), write[:, :, None] & (column < HALF)
        x = tl.load(from_row + column, mask=readable, other=0.0, eviction_policy=LOAD_POLICY).to(tl.float32)
        y = tl.load(from_row + HALF + column, mask=readable, other=0.0, eviction_policy=LOAD_POLICY).to(tl.float32)
        cos = tl.load(angle, mask=known, other=0.0).to(tl.float32)[:, None, :]
        sin = tl.load(angle + HALF, mask=known, other=0.0).to(tl.float32)[:, None, :]
        first = stored(x * cos - y * sin, inverse_scale, FP8_MAX, dtype)
        tl.store(to_row + column, first, mask=writable, cache_modifier=STORE_MODIFIER)
        second = stored(y * cos + x * sin, inverse_scale, FP8_MAX, dtype)
        tl.store(to_row + HALF + column, second, mask=writable, cache_modifier=STORE_MODIFIER)
    else:
        column = tl.arange(0, 2 * BLOCK)[None, None, :]
        readable, writable = read[:, :, None] & (column < ROTARY_DIM), write[:, :, None] & (column < ROTARY_DIM)
        both = tl.load(from_row + column, mask=readable, other=0.0, eviction_policy=LOAD_POLICY).to(tl.float32)
        cos = tl.load(angle, mask=known, other=0.0).to(tl.float32)[:, None, :]
        sin = tl.load(angle + HALF, mask=known, other=0.0).to(tl.float32)[:, None, :]
        x, y = tl.split(tl.reshape(both, [BLOCK_T, BLOCK_H, BLOCK, 2]))
        turned = tl.reshape(tl.join(x * cos - y * sin, y * cos + x * sin), [BLOCK_T, BLOCK_H, 2 * BLOCK])
        turned = stored(turned, inverse_scale, FP8_MAX, dtype)
        tl.store(to_row + column, turned, mask=writable, cache_modifier=STORE_MODIFIER)
