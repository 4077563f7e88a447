"""RMSNorm in Triton: whole rows in registers, one pass over memory."""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents


@triton.jit
def zero_counters(counters, count, is_first, BLOCK_C: tl.constexpr):
    """The first program zeroes `count` counters, BLOCK_C at most."""
    if is_first:
        counter = tl.arange(0, BLOCK_C)
        tl.store(counters + counter, tl.zeros([BLOCK_C], tl.int32), mask=counter < count)


@triton.jit
def rmsnorm(
    x, residual, weight, out, residual_out, counters, tokens, num_counters, epsilon,
    HIDDEN: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_H: tl.constexpr, HAS_RESIDUAL: tl.constexpr,
    BLOCK_C: tl.constexpr, PERSISTENT: tl.constexpr, STAGES: tl.constexpr, LOAD_POLICY: tl.constexpr,
    STORE_MODIFIER: tl.constexpr, DEPENDENT_LAUNCH: tl.constexpr,
):  # fmt: skip
    """Program i: rows [i * BLOCK_T, ..), and those of later rounds where programs are fewer than blocks of rows.

    The first one also zeroes `counters` of a later kernel, BLOCK_C at most.
    """
    if DEPENDENT_LAUNCH:
        gdc_launch_dependents()
    if BLOCK_C > 0:
        zero_counters(counters, num_counters, tl.program_id(0) == 0, BLOCK_C)
    if PERSISTENT:
        column = tl.arange(0, BLOCK_H)
        scale = tl.load(weight + column, mask=column < HIDDEN, other=0.0).to(tl.float32)
        for block in tl.range(tl.program_id(0), tl.cdiv(tokens, BLOCK_T), tl.num_programs(0), num_stages=STAGES):
            _norm_rows(
                block, x, residual, weight, scale, out, residual_out, tokens, epsilon,
                HIDDEN, BLOCK_T, BLOCK_H, HAS_RESIDUAL, True, LOAD_POLICY, STORE_MODIFIER,
            )  # fmt: skip
    else:
        _norm_rows(
            tl.program_id(0), x, residual, weight, None, out, residual_out, tokens, epsilon,
            HIDDEN, BLOCK_T, BLOCK_H, HAS_RESIDUAL, False, LOAD_POLICY, STORE_MODIFIER,
        )  # fmt: skip


@triton.jit
def _norm_rows(
    block, x, residual, weight, scale, out, residual_out, tokens, epsilon, HIDDEN: tl.constexpr, BLOCK_T: tl.constexpr,
    BLOCK_H: tl.constexpr, HAS_RESIDUAL: tl.constexpr, HAS_SCALE: tl.constexpr, LOAD_POLICY: tl.constexpr,
    STORE_MODIFIER: tl.constexpr,
):  # fmt: skip
    """A block of rows. `scale`: with HAS_SCALE the weight in float32."""
    row = block * BLOCK_T + tl.arange(0, BLOCK_T)
    column = tl.arange(0, BLOCK_H)
    is_column = column < HIDDEN
    mask = (row < tokens)[:, None] & is_column[None, :]
    at = row.to(tl.int64)[:, None] * HIDDEN + column[None, :]
    values = tl.load(x + at, mask=mask, other=0.0, eviction_policy=LOAD_POLICY).to(tl.float32)
    if not HAS_SCALE:
        scale = tl.load(weight + column, mask=is_column, other=0.0).to(tl.float32)
    if HAS_RESIDUAL:
        values += tl.load(residual + at, mask=mask, other=0.0, eviction_policy=LOAD_POLICY).to(tl.float32)
        tl.store(residual_out + at, values.to(residual_out.dtype.element_ty), mask=mask, cache_modifier=STORE_MODIFIER)
    inverse = tl.rsqrt(tl.sum(values * values, 1) / HIDDEN + epsilon)
    normed = (values * inverse[:, None] * scale[None, :]).to(out.dtype.element_ty)
    tl.store(out + at, normed, mask=mask, cache_modifier=STORE_MODIFIER)
