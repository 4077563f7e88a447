"""Linear layers with MXFP4 and MXFP6 weights in Triton: stream-K over transposed tiles; see `_stream_k`.

`tl.dot_scaled` takes 4-bit weights as they are where the device has such products (gfx950, sm_100). Elsewhere, and
for 6 bits, which it does not know, the stored bits are moved to where fp32 has its exponent and its mantissa:

    s e..e m..m  ->  s 0..0 e..e m..m 0..0, an fp32 number that is 2^(bias - 127) times the stored one

subnormals included, so one multiplication by a power of two sets all codes right. The scale is another one; so that
both are one factor within fp32's range for scales of 2^-63 to 2^63, weights are multiplied 2^63 times too small, and
the sums are set right at the end.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from ..device import Device
from ..kernel import Kernel, Origin
from ..problem import Inputs, Outputs, Problem
from ._linear_mx_problem import BITS, LinearMX
from ._stream_k import finish_tile, launch, let_dependents_launch, tile_place
from ._stream_k_plan import StreamKPlan, Tile, power_of_2_above, stream_k

GROUP = tl.constexpr(32)
SHIFT = tl.constexpr(63)
MANTISSA_BITS = {"mxfp4": 1, "mxfp6_e2m3": 3, "mxfp6_e3m2": 2}
EXPONENT_BIAS = {"mxfp4": 1, "mxfp6_e2m3": 1, "mxfp6_e3m2": 3}
SCALED_ARCHS = ("gfx950", "sm_100", "sm_103")
"""Devices with microscaled products of their own."""


@triton.jit
def _from_codes(code, BITS: tl.constexpr, MANTISSA: tl.constexpr):
    """int32 whose low BITS are a code -> its value times 2^(bias - 127), float32."""
    SIGN: tl.constexpr = 1 << (BITS - 1)
    bits = ((code & SIGN) << (32 - BITS)) | ((code & (SIGN - 1)) << (23 - MANTISSA))
    return bits.to(tl.float32, bitcast=True)


@triton.jit
def _load_bytes(pointers, offset, limit, EVEN: tl.constexpr):
    """uint8 as int32; 0 past `limit`."""
    if EVEN:
        return tl.load(pointers + offset[None, :]).to(tl.int32)
    return tl.load(pointers + offset[None, :], mask=(offset < limit)[None, :], other=0).to(tl.int32)


@triton.jit
def _load_weights(
    w_rows, step, row_bytes, ROWS: tl.constexpr, BLOCK_K: tl.constexpr, BITS: tl.constexpr, MANTISSA: tl.constexpr,
    EVEN: tl.constexpr,
):  # fmt: skip
    """[ROWS, BLOCK_K] float32, each times 2^(bias - 127), without their scales."""
    if BITS == 4:
        offset = step * (BLOCK_K // 2) + tl.arange(0, BLOCK_K // 2)
        pair = _load_bytes(w_rows, offset, row_bytes, EVEN)
        code = tl.join(pair, pair >> 4).reshape(ROWS, BLOCK_K)
    else:
        offset = step * (BLOCK_K // 4 * 3) + 3 * tl.arange(0, BLOCK_K // 4)
        byte0 = _load_bytes(w_rows, offset, row_bytes, EVEN)
        byte1 = _load_bytes(w_rows, offset + 1, row_bytes, EVEN)
        byte2 = _load_bytes(w_rows, offset + 2, row_bytes, EVEN)
        word = byte0 | (byte1 << 8) | (byte2 << 16)
        code = tl.join(tl.join(word, word >> 12), tl.join(word >> 6, word >> 18)).reshape(ROWS, BLOCK_K)
    return _from_codes(code, BITS, MANTISSA)


@triton.jit
def _load_scales(scale_rows, step, num_groups, BLOCK_K: tl.constexpr, EVEN: tl.constexpr):
    """[rows, BLOCK_K / 32] e8m0 codes; 127, which is 1, past the end."""
    group = step * (BLOCK_K // GROUP) + tl.arange(0, BLOCK_K // GROUP)
    if EVEN:
        return tl.load(scale_rows + group[None, :])
    return tl.load(scale_rows + group[None, :], mask=(group < num_groups)[None, :], other=127)


@triton.jit
def _times_scales(values, scale, OFFSET: tl.constexpr, ROWS: tl.constexpr, BLOCK_K: tl.constexpr):
    """[ROWS, BLOCK_K] float32 times 2^(scale + OFFSET - 127), to bfloat16: exact."""
    exponent = tl.minimum(tl.maximum(scale.to(tl.int32) + OFFSET, 1), 254)
    factor = (exponent << 23).to(tl.float32, bitcast=True)
    factor = tl.broadcast_to(factor[:, :, None], [ROWS, BLOCK_K // GROUP, GROUP]).reshape(ROWS, BLOCK_K)
    return (values * factor).to(tl.bfloat16)


@triton.jit
def _linear_mx(
    x, w, x_scale, w_scale, out, partials, counters, M, N, K, per_program,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP_M: tl.constexpr, PARTS: tl.constexpr,
    STAGES: tl.constexpr, SPLIT: tl.constexpr, COMBINE: tl.constexpr, EVEN_K: tl.constexpr,
    DEPENDENT_LAUNCH: tl.constexpr, BITS: tl.constexpr, MANTISSA: tl.constexpr, BIAS: tl.constexpr,
    X_SCALED: tl.constexpr, DOT_SCALED: tl.constexpr,
):  # fmt: skip
    """Program p: K steps [p * per_program, ..) of all tiles laid end to end."""
    let_dependents_launch(DEPENDENT_LAUNCH)
    steps, num_groups, row_bytes = tl.cdiv(K, BLOCK_K), K // GROUP, K // 8 * BITS
    at = tl.program_id(0) * per_program
    end = tl.minimum(at + per_program, tl.cdiv(M, BLOCK_M) * tl.cdiv(N, BLOCK_N) * steps)
    k_within = tl.arange(0, BLOCK_K)
    while at < end:
        tile = at // steps
        first = at - tile * steps
        last = tl.minimum(steps, first + end - at)
        block_m, block_n = tile_place(tile, M, N, BLOCK_M, BLOCK_N, GROUP_M)
        # Rows past the end are those of the last row: they are not stored.
        m = tl.minimum(block_m * BLOCK_M + tl.arange(0, BLOCK_M), M - 1).to(tl.int64)[:, None]
        n = tl.minimum(block_n * BLOCK_N + tl.arange(0, BLOCK_N), N - 1).to(tl.int64)[:, None]
        x_rows, w_rows, w_scales = x + m * K, w + n * row_bytes, w_scale + n * num_groups
        acc = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
        for step in tl.range(first, last, num_stages=STAGES):
            k = (step * BLOCK_K + k_within)[None, :]
            x_tile = tl.load(x_rows + k) if EVEN_K else tl.load(x_rows + k, mask=k < K, other=0.0)
            w_factor = _load_scales(w_scales, step, num_groups, BLOCK_K, EVEN_K)
            x_factor = None
            if X_SCALED:
                x_factor = _load_scales(x_scale + m * num_groups, step, num_groups, BLOCK_K, EVEN_K)
            if DOT_SCALED:
                byte = (step * (BLOCK_K // 2) + tl.arange(0, BLOCK_K // 2))[None, :]
                w_tile = tl.load(w_rows + byte) if EVEN_K else tl.load(w_rows + byte, mask=byte < row_bytes, other=0)
                acc = tl.dot_scaled(
                    w_tile, w_factor, "e2m1", x_tile.T, x_factor, "e4m3" if X_SCALED else "bf16", acc=acc
                )
            else:
                values = _load_weights(w_rows, step, row_bytes, BLOCK_N, BLOCK_K, BITS, MANTISSA, EVEN_K)
                w_tile = _times_scales(values, w_factor, 127 - BIAS - SHIFT, BLOCK_N, BLOCK_K)
                if X_SCALED:
                    x_tile = _times_scales(x_tile.to(tl.float32), x_factor, 0, BLOCK_M, BLOCK_K)
                acc = tl.dot(w_tile, x_tile.T, acc=acc)
        if not DOT_SCALED:
            acc *= 2.0**SHIFT
        finish_tile(
            acc, out, partials, counters, tile, steps, per_program, M, N,
            BLOCK_M, BLOCK_N, GROUP_M, SPLIT, COMBINE, PARTS,
        )  # fmt: skip
        at += last - first


def plan(problem: Problem, plan_inputs: Inputs, device: Device) -> tuple[LinearMX, StreamKPlan]:
    """A tile for the shape, then equal shares."""
    assert isinstance(problem, LinearMX)
    return problem, stream_k(problem, _tile(problem, device), device)


def _tile(problem: LinearMX, device: Device) -> Tile:
    """Not timed."""
    block_m = min(128, max(16, power_of_2_above(problem.m)))
    if device.arch in SCALED_ARCHS and problem.w_format == "mxfp4":
        per_sm = 2 if block_m <= 32 else 1
        return Tile(block_m, 128, 128, num_warps=4, num_stages=3, programs_per_sm=per_sm, unpack="scaled")
    if device.kind == "hip":
        return Tile(min(block_m, 64), 64, 64, num_warps=4, num_stages=2, programs_per_sm=2)
    block_k = 256 if block_m == 16 and problem.w_format == "mxfp4" else 128
    return Tile(min(block_m, 64), 64, block_k, num_warps=4, num_stages=4, programs_per_sm=2)


def run(inputs: Inputs, state: tuple[LinearMX, StreamKPlan]) -> Outputs:
    """One launch, or two."""
    problem, shares = state
    x, w = inputs["x"], inputs["w"]
    out = torch.empty((len(x), len(w)), dtype=getattr(torch, shares.out_dtype), device=x.device)
    arguments = (x, w, inputs.get("x_scale"), inputs["w_scale"])
    launch(
        _linear_mx, shares, out, x.shape[1], arguments,
        BITS=BITS[problem.w_format], MANTISSA=MANTISSA_BITS[problem.w_format], BIAS=EXPONENT_BIAS[problem.w_format],
        X_SCALED="x_scale" in inputs, DOT_SCALED=shares.unpack == "scaled",
    )  # fmt: skip
    return {"out": out}


KERNEL = Kernel(origin=Origin.HAND, tasks=("linear_mx",), run=run, plan=plan, requires=("triton",), uses_triton=True)
