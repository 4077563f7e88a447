"""RMSNorm in Triton: whole rows in registers, one pass over memory."""

from __future__ import annotations

from dataclasses import dataclass

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents

from ..device import Device

VALUES_PER_THREAD = 32
"""Of a row, in float32: four loads of 16 bytes of a 16-bit type."""
FEW_VALUES_PER_THREAD = 8
"""Where rows are fewer than SMs: latency counts, and threads are free."""
MIN_TILE = 2048
MAX_WARPS = 16


@dataclass(frozen=True)
class NormPlan:
    """What `rmsnorm` is launched with."""

    block_t: int
    """Rows of a program."""
    block_h: int
    """The row's length, rounded up to a power of two."""
    num_warps: int
    dependent_launch: bool
    """Whether the device can launch the next kernel before this one has ended."""


def norm_plan(tokens: int, hidden_size: int, device: Device) -> NormPlan:
    """From the shape alone. Narrow rows share a program."""
    block_h = _next_power_of_2(hidden_size)
    block_t = max(1, min(MIN_TILE // block_h, _next_power_of_2(tokens)))
    per_thread = FEW_VALUES_PER_THREAD if tokens <= device.num_sms else VALUES_PER_THREAD
    warps = block_t * block_h // (per_thread * max(device.warp_size, 1))
    return NormPlan(
        block_t,
        block_h,
        num_warps=min(MAX_WARPS, max(1, _next_power_of_2(warps))),
        dependent_launch=device.compute_capability >= 90,
    )


@triton.jit
def rmsnorm(
    x, residual, weight, out, residual_out, counters, tokens, num_counters, epsilon,
    HIDDEN: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_H: tl.constexpr, HAS_RESIDUAL: tl.constexpr,
    BLOCK_C: tl.constexpr, DEPENDENT_LAUNCH: tl.constexpr,
):  # fmt: skip
    """Program i: rows [i * BLOCK_T, ..). The first one also zeroes `counters` of a later kernel, BLOCK_C at most."""
    if DEPENDENT_LAUNCH:
        gdc_launch_dependents()
    if BLOCK_C > 0:  # noqa: SIM102 - decided when it is compiled
        if tl.program_id(0) == 0:
            counter = tl.arange(0, BLOCK_C)
            tl.store(counters + counter, tl.zeros([BLOCK_C], tl.int32), mask=counter < num_counters)
    row = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    column = tl.arange(0, BLOCK_H)
    is_column = column < HIDDEN
    mask = (row < tokens)[:, None] & is_column[None, :]
    at = row.to(tl.int64)[:, None] * HIDDEN + column[None, :]
    values = tl.load(x + at, mask=mask, other=0.0).to(tl.float32)
    scale = tl.load(weight + column, mask=is_column, other=0.0).to(tl.float32)
    if HAS_RESIDUAL:
        values += tl.load(residual + at, mask=mask, other=0.0).to(tl.float32)
        tl.store(residual_out + at, values.to(residual_out.dtype.element_ty), mask=mask)
    inverse = tl.rsqrt(tl.sum(values * values, 1) / HIDDEN + epsilon)
    tl.store(out + at, (values * inverse[:, None] * scale[None, :]).to(out.dtype.element_ty), mask=mask)


def _next_power_of_2(n: int) -> int:
    return 1 << max(0, n - 1).bit_length()
