"""fp8 linear layers in Triton: stream-K over transposed tiles; see `_stream_k`.

A step is 128 of K, the group of a block scale: its product starts from zero, is multiplied by the scales of x and w,
and is added in fp32 registers. So sums leave Hopper's tensor cores every 128 of K, whatever the scaling. The scales
of a step, or of a few, are loaded one turn of the loop ahead: they feed no product, so Triton would not pipeline them.
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
from ._stream_k import combine, finish_tile, let_dependents_launch, options, row_length, tile_place, workspace, zeros
from ._stream_k_plan import StreamKPlan, stream_k
from .problem import LinearFP8


@triton.jit
def _load_tiles(
    x, w, x_rows, w_rows, m, n, step, k_within, K, BLOCK_K: tl.constexpr, EVEN_K: tl.constexpr, TMA: tl.constexpr,
):  # fmt: skip
    """A step's tiles, [BLOCK_M, BLOCK_K] and [BLOCK_N, BLOCK_K]: of descriptors the ones that begin at m and n."""
    k = (step * BLOCK_K + k_within)[None, :]
    if TMA:
        x_tile, w_tile = x.load([m, step * BLOCK_K]), w.load([n, step * BLOCK_K])
    elif EVEN_K:
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
        product = tl.dot(x_tile, w_tile.T) * (x_factor[:, None] * w_factor[None, :])
    else:
        product = tl.dot(w_tile, x_tile.T) * (w_factor[:, None] * x_factor[None, :])
    return product


@triton.jit
def _multiply(
    x, w, x_rows, w_rows, x_scales, w_scales, stride_xk, stride_wk, block_m, block_n, first, last,
    k_within, K,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, STAGES: tl.constexpr, EVEN_K: tl.constexpr,
    TMA: tl.constexpr, TOKEN_ROWS: tl.constexpr,
):  # fmt: skip
    """The sum of the scaled products of K steps [first, last)."""
    x_factor, w_factor = _load_scales(x_scales, w_scales, first, stride_xk, stride_wk)
    acc = zeros(BLOCK_M, BLOCK_N, TOKEN_ROWS)
    for step in tl.range(first, last, num_stages=STAGES):
        x_tile, w_tile = _load_tiles(
            x, w, x_rows, w_rows, block_m * BLOCK_M, block_n * BLOCK_N, step, k_within, K, BLOCK_K, EVEN_K, TMA
        )
        next_step = tl.minimum(step + 1, last - 1)
        next_x, next_w = _load_scales(x_scales, w_scales, next_step, stride_xk, stride_wk)
        acc += _scaled_product(x_tile, w_tile, x_factor, w_factor, TOKEN_ROWS)
        x_factor, w_factor = next_x, next_w
    return acc


@triton.jit
def _load_factors(scales, step, last, stride, UNROLL: tl.constexpr):
    """[rows, UNROLL]: scales of UNROLL steps; 0 from the last one on."""
    steps = step + tl.arange(0, UNROLL)[None, :]
    return tl.load(scales[:, None] + steps * stride, mask=steps < last, other=0.0)


@triton.jit
def _multiply_unrolled(
    x, w, x_rows, w_rows, x_scales, w_scales, stride_xk, stride_wk, block_m, block_n, first, last,
    k_within, K,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, STAGES: tl.constexpr, EVEN_K: tl.constexpr,
    TMA: tl.constexpr, TOKEN_ROWS: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    """As `_multiply`, UNROLL steps in a turn. Those past the end are the last one again, with factors of 0."""
    m, n = block_m * BLOCK_M, block_n * BLOCK_N
    next_x = _load_factors(x_scales, first, last, stride_xk, UNROLL)
    next_w = _load_factors(w_scales, first, last, stride_wk, UNROLL)
    acc = zeros(BLOCK_M, BLOCK_N, TOKEN_ROWS)
    for step in tl.range(first, last, UNROLL, num_stages=STAGES):
        x_factors, w_factors = next_x, next_w
        next_x = _load_factors(x_scales, step + UNROLL, last, stride_xk, UNROLL)
        next_w = _load_factors(w_scales, step + UNROLL, last, stride_wk, UNROLL)
        for i in tl.static_range(UNROLL):
            own = tl.minimum(step + i, last - 1)
            x_tile, w_tile = _load_tiles(x, w, x_rows, w_rows, m, n, own, k_within, K, BLOCK_K, EVEN_K, TMA)
            x_factor = tl.sum(tl.where(tl.arange(0, UNROLL)[None, :] == i, x_factors, 0.0), 1)
            w_factor = tl.sum(tl.where(tl.arange(0, UNROLL)[None, :] == i, w_factors, 0.0), 1)
            acc += _scaled_product(x_tile, w_tile, x_factor, w_factor, TOKEN_ROWS)
    return acc


@triton.jit
def _linear_fp8(
    x, w, x_scale, w_scale, stride_xk, stride_xm, stride_wn, stride_wk, out, partials, counters, M, N, K, per_program,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP_M: tl.constexpr, PARTS: tl.constexpr,
    ROWS: tl.constexpr, STAGES: tl.constexpr, SPLIT: tl.constexpr, COMBINE: tl.constexpr, EVEN_K: tl.constexpr,
    K_MULTIPLE: tl.constexpr, DEPENDENT_LAUNCH: tl.constexpr, TMA: tl.constexpr, TOKEN_ROWS: tl.constexpr,
    UNROLL: tl.constexpr, GROUP_N: tl.constexpr,
):  # fmt: skip
    """Program p: K steps [p * per_program, ..) of all tiles laid end to end. A stride of a scale may be 0."""
    let_dependents_launch(DEPENDENT_LAUNCH)
    K = row_length(K, K_MULTIPLE)
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
        if UNROLL == 1:
            acc = _multiply(
                x, w, x_rows, w_rows, x_scales, w_scales, stride_xk, stride_wk, block_m, block_n, first, last,
                k_within, K, BLOCK_M, BLOCK_N, BLOCK_K, STAGES, EVEN_K, TMA, TOKEN_ROWS,
            )  # fmt: skip
        else:
            acc = _multiply_unrolled(
                x, w, x_rows, w_rows, x_scales, w_scales, stride_xk, stride_wk, block_m, block_n, first, last,
                k_within, K, BLOCK_M, BLOCK_N, BLOCK_K, STAGES, EVEN_K, TMA, TOKEN_ROWS, UNROLL,
            )  # fmt: skip
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
    stride_xk, stride_xm = x_scale.stride(0) if len(x_scale) > 1 else 0, 1 if x_scale.shape[1] > 1 else 0
    stride_wn, stride_wk = w_scale.stride(0) if len(w_scale) > 1 else 0, 1 if w_scale.shape[1] > 1 else 0
    if state.tma:
        x = TensorDescriptor.from_tensor(x, [state.block_m, state.block_k])
        w = TensorDescriptor.from_tensor(w, [state.block_n, state.block_k])
    _linear_fp8[(state.num_programs,)](
        x, w, x_scale, w_scale, stride_xk, stride_xm, stride_wn, stride_wk, out, partials, counters, m, n, k,
        state.per_program,
        TMA=state.tma, TOKEN_ROWS=state.token_rows, UNROLL=state.unroll, GROUP_N=GROUP if is_block else 1,
        K_MULTIPLE=min(16, k & -k), **options(state, k, is_interpreted),
    )  # fmt: skip
    combine(state, partials, out)
    return {"out": out}


KERNEL = Kernel(origin=Origin.HAND, tasks=("linear_fp8",), run=run, plan=plan, requires=("triton",), uses_triton=True)
