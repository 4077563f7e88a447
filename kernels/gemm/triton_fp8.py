"""fp8 linear layers in Triton: stream-K over transposed tiles; see `_stream_k`.

A step is 128 of K, the group of a block scale: its product starts from zero, is multiplied by the scales of x and w,
and is added in fp32 registers. So sums leave Hopper's tensor cores every 128 of K, whatever the scaling. The scales
of a step are loaded one step ahead or more: they feed no product, so Triton would not pipeline their loads.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from ..device import Device
from ..kernel import Kernel, Origin
from ..problem import Inputs, Outputs, Problem
from ._linear_fp8_plan import GROUP, choice_for
from ._stream_k import combine, finish_tile, let_dependents_launch, options, tile_place, workspace, zeros
from ._stream_k_plan import StreamKPlan, stream_k
from .problem import LinearFP8


@triton.jit
def _load_tiles(
    x, w, x_rows, w_rows, m, n, step, k_within, K, BLOCK_K: tl.constexpr, EVEN_K: tl.constexpr, TMA: tl.constexpr,
):  # fmt: skip
    """A step's tiles, [BLOCK_M, BLOCK_K] and [BLOCK_N, BLOCK_K]: of descriptors the ones that begin at m and n."""
    if TMA:
        return x.load([m, step * BLOCK_K]), w.load([n, step * BLOCK_K])
    k = (step * BLOCK_K + k_within)[None, :]
    if EVEN_K:
        w_tile, x_tile = tl.load(w_rows + k), tl.load(x_rows + k)
    else:
        w_tile = tl.load(w_rows + k, mask=k < K, other=0.0)
        x_tile = tl.load(x_rows + k, mask=k < K, other=0.0)
    return x_tile, w_tile


@triton.jit
def _load_scales(x_scales, w_scales, step, stride_xk, stride_wk):
    return tl.load(x_scales + step * stride_xk), tl.load(w_scales + step * stride_wk)


@triton.jit
def _scaled_product(x_tile, w_tile, x_factor, w_factor, TOKEN_ROWS: tl.constexpr):
    if TOKEN_ROWS:
        return tl.dot(x_tile, w_tile.T) * (x_factor[:, None] * w_factor[None, :])
    return tl.dot(w_tile, x_tile.T) * (w_factor[:, None] * x_factor[None, :])


@triton.jit
def _linear_fp8(
    x, w, x_scale, w_scale, stride_xk, stride_xm, stride_wn, stride_wk, out, partials, counters, M, N, K, per_program,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP_M: tl.constexpr, PARTS: tl.constexpr,
    ROWS: tl.constexpr, STAGES: tl.constexpr, SPLIT: tl.constexpr, COMBINE: tl.constexpr, EVEN_K: tl.constexpr,
    DEPENDENT_LAUNCH: tl.constexpr, TMA: tl.constexpr, TOKEN_ROWS: tl.constexpr, AHEAD: tl.constexpr,
    GROUP_N: tl.constexpr,
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
        x_rows = x if TMA else x + m.to(tl.int64)[:, None] * K
        w_rows = w if TMA else w + n.to(tl.int64)[:, None] * K
        x_scales, w_scales = x_scale + m * stride_xm, w_scale + n // GROUP_N * stride_wn
        x_factor, w_factor = _load_scales(x_scales, w_scales, first, stride_xk, stride_wk)
        if AHEAD > 1:
            x_second, w_second = _load_scales(x_scales, w_scales, tl.minimum(first + 1, last - 1), stride_xk, stride_wk)
        if AHEAD > 2:
            x_third, w_third = _load_scales(x_scales, w_scales, tl.minimum(first + 2, last - 1), stride_xk, stride_wk)
            x_fourth, w_fourth = _load_scales(x_scales, w_scales, tl.minimum(first + 3, last - 1), stride_xk, stride_wk)
        acc = zeros(BLOCK_M, BLOCK_N, TOKEN_ROWS)
        for step in tl.range(first, last, num_stages=STAGES):
            x_tile, w_tile = _load_tiles(
                x, w, x_rows, w_rows, block_m * BLOCK_M, block_n * BLOCK_N, step, k_within, K, BLOCK_K, EVEN_K, TMA
            )
            next_step = tl.minimum(step + AHEAD, last - 1)
            next_x, next_w = _load_scales(x_scales, w_scales, next_step, stride_xk, stride_wk)
            acc += _scaled_product(x_tile, w_tile, x_factor, w_factor, TOKEN_ROWS)
            if AHEAD == 1:
                x_factor, w_factor = next_x, next_w
            elif AHEAD == 2:
                x_factor, w_factor = x_second, w_second
                x_second, w_second = next_x, next_w
            else:
                x_factor, w_factor = x_second, w_second
                x_second, w_second = x_third, w_third
                x_third, w_third = x_fourth, w_fourth
                x_fourth, w_fourth = next_x, next_w
        finish_tile(
            acc, out, partials, counters, tile, steps, per_program, M, N,
            BLOCK_M, BLOCK_N, GROUP_M, SPLIT, COMBINE, PARTS, ROWS, TOKEN_ROWS,
        )  # fmt: skip
        at += last - first


def plan(problem: Problem, plan_inputs: Inputs, device: Device) -> StreamKPlan:
    """A tile for the shape, then equal shares."""
    assert isinstance(problem, LinearFP8)
    return stream_k(problem, choice_for(problem, device), device)


def run(inputs: Inputs, state: StreamKPlan) -> Outputs:
    """One launch, or two."""
    x, w, x_scale, w_scale = inputs["x"], inputs["w"], inputs["x_scale"], inputs["w_scale"]
    (m, k), n = x.shape, len(w)
    out = torch.empty((m, n), dtype=getattr(torch, state.out_dtype), device=x.device)
    partials, counters = workspace(state, out)
    is_interpreted = out.is_cpu
    is_block = len(w_scale) == triton.cdiv(n, GROUP) and len(x_scale) == triton.cdiv(k, GROUP)
    strides = (
        x_scale.stride(0) if len(x_scale) > 1 else 0,
        1 if x_scale.shape[1] > 1 else 0,
        w_scale.stride(0) if len(w_scale) > 1 else 0,
        1 if w_scale.shape[1] > 1 else 0,
    )
    if state.tma:
        x = TensorDescriptor.from_tensor(x, [state.block_m, state.block_k])
        w = TensorDescriptor.from_tensor(w, [state.block_n, state.block_k])
    _linear_fp8[(state.num_programs,)](
        x, w, x_scale, w_scale, *strides, out, partials, counters, m, n, k, state.per_program,
        TMA=state.tma, TOKEN_ROWS=state.token_rows, AHEAD=state.scales_ahead, GROUP_N=GROUP if is_block else 1,
        **options(state, k, is_interpreted),
    )  # fmt: skip
    combine(state, partials, out)
    return {"out": out}


KERNEL = Kernel(origin=Origin.HAND, tasks=("linear_fp8",), run=run, plan=plan, requires=("triton",), uses_triton=True)
