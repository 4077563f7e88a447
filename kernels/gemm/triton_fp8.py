"""fp8 linear layers in Triton: stream-K over transposed tiles; see `_stream_k`.

A step is 128 of K, the group of a block scale: its product starts from zero, is multiplied by the scales of x and w,
and is added in fp32 registers. So sums leave Hopper's tensor cores every 128 of K, whatever the scaling. The scales
of a step are loaded one step ahead: they feed no product, so Triton would not pipeline their loads.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from ..device import Device
from ..kernel import Kernel, Origin
from ..problem import Inputs, Outputs, Problem
from ._linear_fp8_problem import GROUP
from ._stream_k import finish_tile, launch, let_dependents_launch, tile_place
from ._stream_k_plan import StreamKPlan, Tile, power_of_2_above, stream_k
from .problem import LinearFP8


@triton.jit
def _linear_fp8(
    x, w, x_scale, w_scale, stride_xk, stride_xm, stride_wn, stride_wk, out, partials, counters, M, N, K, per_program,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP_M: tl.constexpr, PARTS: tl.constexpr,
    STAGES: tl.constexpr, SPLIT: tl.constexpr, COMBINE: tl.constexpr, EVEN_K: tl.constexpr,
    DEPENDENT_LAUNCH: tl.constexpr, GROUP_N: tl.constexpr,
):  # fmt: skip
    """Program p: K steps [p * per_program, ..) of all tiles laid end to end. A stride of a scale may be 0."""
    let_dependents_launch(DEPENDENT_LAUNCH)
    steps = tl.cdiv(K, BLOCK_K)
    at = tl.program_id(0) * per_program
    end = tl.minimum(at + per_program, tl.cdiv(M, BLOCK_M) * tl.cdiv(N, BLOCK_N) * steps)
    k_within = tl.arange(0, BLOCK_K)
    while at < end:
        tile = at // steps
        first = at - tile * steps
        last = tl.minimum(steps, first + end - at)
        block_m, block_n = tile_place(tile, M, N, BLOCK_M, BLOCK_N, GROUP_M)
        # Rows past the end are those of the last row: they are not stored.
        m = tl.minimum(block_m * BLOCK_M + tl.arange(0, BLOCK_M), M - 1)
        n = tl.minimum(block_n * BLOCK_N + tl.arange(0, BLOCK_N), N - 1)
        x_rows, w_rows = x + m.to(tl.int64)[:, None] * K, w + n.to(tl.int64)[:, None] * K
        x_scales, w_scales = x_scale + m * stride_xm, w_scale + n // GROUP_N * stride_wn
        x_factor, w_factor = tl.load(x_scales + first * stride_xk), tl.load(w_scales + first * stride_wk)
        acc = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
        for step in tl.range(first, last, num_stages=STAGES):
            k = (step * BLOCK_K + k_within)[None, :]
            if EVEN_K:
                w_tile, x_tile = tl.load(w_rows + k), tl.load(x_rows + k)
            else:
                w_tile = tl.load(w_rows + k, mask=k < K, other=0.0)
                x_tile = tl.load(x_rows + k, mask=k < K, other=0.0)
            next_step = tl.minimum(step + 1, last - 1)
            next_x, next_w = tl.load(x_scales + next_step * stride_xk), tl.load(w_scales + next_step * stride_wk)
            acc += tl.dot(w_tile, x_tile.T) * (w_factor[:, None] * x_factor[None, :])
            x_factor, w_factor = next_x, next_w
        finish_tile(
            acc, out, partials, counters, tile, steps, per_program, M, N,
            BLOCK_M, BLOCK_N, GROUP_M, SPLIT, COMBINE, PARTS,
        )  # fmt: skip
        at += last - first


def plan(problem: Problem, plan_inputs: Inputs, device: Device) -> StreamKPlan:
    """A tile for the shape, then equal shares."""
    assert isinstance(problem, LinearFP8)
    return stream_k(problem, _tile(problem, device), device)


def _tile(problem: LinearFP8, device: Device) -> Tile:
    """A step is always one group of 128."""
    block_m = min(128, max(16, power_of_2_above(problem.m)))
    if device.kind == "hip":
        if problem.m > 256 and device.shared_memory_bytes > 64 * 1024:
            return Tile(128, 128, GROUP, num_warps=8, num_stages=2)
        return Tile(min(block_m, 64), 64, GROUP, num_warps=4, num_stages=2, programs_per_sm=2)
    small = device.shared_memory_bytes < 155 * 1024  # sm_89, sm_120
    if block_m <= 64:
        # H200, tuning: 64 x 7168 x 2048, 16 steps, takes 10.0 us; 12.8 in two parts of 128 features; 13.9 in shares
        # of two SMs' programs. One program with twice the stages on each SM: 10.5.
        stages, per_sm = (3, 1) if small else (6, 2)
        return Tile(block_m, 64, GROUP, num_warps=4, num_stages=stages, programs_per_sm=per_sm, min_steps=16)
    if problem.m <= 256:  # wider blocks of features read x less often
        return Tile(block_m, 128, GROUP, num_warps=8, num_stages=3 if small else 6)
    return Tile(128, 128, GROUP, num_warps=8, num_stages=2 if small else 4)


def run(inputs: Inputs, state: StreamKPlan) -> Outputs:
    """One launch, or two."""
    x, w, x_scale, w_scale = inputs["x"], inputs["w"], inputs["x_scale"], inputs["w_scale"]
    out = torch.empty((len(x), len(w)), dtype=getattr(torch, state.out_dtype), device=x.device)
    is_block = len(w_scale) == triton.cdiv(len(w), GROUP) and len(x_scale) == triton.cdiv(x.shape[1], GROUP)
    strides = (
        x_scale.stride(0) if len(x_scale) > 1 else 0,
        1 if x_scale.shape[1] > 1 else 0,
        w_scale.stride(0) if len(w_scale) > 1 else 0,
        1 if w_scale.shape[1] > 1 else 0,
    )
    arguments = (x, w, x_scale, w_scale, *strides)
    launch(_linear_fp8, state, out, x.shape[1], arguments, GROUP_N=GROUP if is_block else 1)
    return {"out": out}


KERNEL = Kernel(origin=Origin.HAND, tasks=("linear_fp8",), run=run, plan=plan, requires=("triton",), uses_triton=True)
