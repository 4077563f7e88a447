"""Linear layers in Triton: stream-K over transposed tiles, for any M; see `_stream_k`.

w is streamed through shared memory in tiles of [BLOCK_N, BLOCK_K], pipelined; enough stages and programs per SM keep
64 KB and more of it in flight on every SM. x is small and comes from the cache. Tiles come by pointers, or with TMA by
tensor descriptors: one instruction for a whole tile.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from ..device import Device
from ..kernel import Kernel, Origin
from ..problem import Inputs, Outputs, Problem
from ._linear_plan import choice_for
from ._stream_k import combine, finish_tile, let_dependents_launch, options, row_length, tile_place, workspace, zeros
from ._stream_k_plan import StreamKPlan, stream_k
from .problem import Linear


@triton.jit
def _added_product(acc, x_tile, w_tile, TOKEN_ROWS: tl.constexpr, PRECISION: tl.constexpr):
    if TOKEN_ROWS:
        acc = tl.dot(x_tile, w_tile.T, acc=acc, input_precision=PRECISION)
    else:
        acc = tl.dot(w_tile, x_tile.T, acc=acc, input_precision=PRECISION)
    return acc


@triton.jit
def _multiply(
    x_rows, w_rows, first, last, K, acc,
    BLOCK_K: tl.constexpr, STAGES: tl.constexpr, EVEN_K: tl.constexpr, TOKEN_ROWS: tl.constexpr,
    W_EVICTION: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """acc [BLOCK_N, BLOCK_M], or with TOKEN_ROWS [M, N], and the products of K steps [first, last)."""
    for step in tl.range(first, last, num_stages=STAGES):
        k = (step * BLOCK_K + tl.arange(0, BLOCK_K))[None, :]
        if EVEN_K:
            w_tile, x_tile = tl.load(w_rows + k, eviction_policy=W_EVICTION), tl.load(x_rows + k)
        else:
            w_tile = tl.load(w_rows + k, mask=k < K, other=0.0, eviction_policy=W_EVICTION)
            x_tile = tl.load(x_rows + k, mask=k < K, other=0.0)
        acc = _added_product(acc, x_tile, w_tile, TOKEN_ROWS, PRECISION)
    return acc


@triton.jit
def _multiply_tma(
    x, w, m, n, first, last, acc,
    BLOCK_K: tl.constexpr, STAGES: tl.constexpr, TOKEN_ROWS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """As `_multiply`, of the tiles that begin at token m and feature n; past the ends of x and w all is 0."""
    for step in tl.range(first, last, num_stages=STAGES):
        x_tile, w_tile = x.load([m, step * BLOCK_K]), w.load([n, step * BLOCK_K])
        acc = _added_product(acc, x_tile, w_tile, TOKEN_ROWS, PRECISION)
    return acc


@triton.jit
def _multiply_sliced(
    x_rows, w_rows, is_token, first, last, K,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, SLICES: tl.constexpr, STAGES: tl.constexpr,
    EVEN_K: tl.constexpr, W_EVICTION: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """As `_multiply`, of a tile too small for all warps: each multiplies a slice of every step, of all features."""
    SLICE: tl.constexpr = BLOCK_K // SLICES
    acc = tl.zeros([SLICES, BLOCK_N, BLOCK_M], tl.float32)
    k_within = (tl.arange(0, SLICES) * SLICE)[:, None, None] + tl.arange(0, SLICE)[None, None, :]
    for step in tl.range(first, last, num_stages=STAGES):
        k = step * BLOCK_K + k_within
        if EVEN_K:
            w_tile = tl.load(w_rows[None, :, :] + k, eviction_policy=W_EVICTION)
            x_tile = tl.load(x_rows[None, :, :] + k, mask=is_token[None, :, None], other=0.0)
        else:
            w_tile = tl.load(w_rows[None, :, :] + k, mask=k < K, other=0.0, eviction_policy=W_EVICTION)
            x_tile = tl.load(x_rows[None, :, :] + k, mask=is_token[None, :, None] & (k < K), other=0.0)
        acc = tl.dot(w_tile, tl.permute(x_tile, (0, 2, 1)), acc=acc, input_precision=PRECISION)
    return tl.sum(acc, 0)


@triton.jit
def _linear(
    x, w, out, partials, counters, M, N, K, per_program,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP_M: tl.constexpr, PARTS: tl.constexpr,
    ROWS: tl.constexpr, STAGES: tl.constexpr, SPLIT: tl.constexpr, COMBINE: tl.constexpr, EVEN_K: tl.constexpr,
    K_MULTIPLE: tl.constexpr, DEPENDENT_LAUNCH: tl.constexpr, SLICES: tl.constexpr, TMA: tl.constexpr,
    TOKEN_ROWS: tl.constexpr, W_EVICTION: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Program p: K steps [p * per_program, ..) of all tiles laid end to end. With TMA x and w are descriptors."""
    let_dependents_launch(DEPENDENT_LAUNCH)
    K = row_length(K, K_MULTIPLE)
    steps = tl.cdiv(K, BLOCK_K)
    at = tl.program_id(0) * per_program
    end = tl.minimum(at + per_program, tl.cdiv(M, BLOCK_M) * tl.cdiv(N, BLOCK_N) * steps)
    while at < end:
        tile = at // steps
        first = at - tile * steps
        last = tl.minimum(steps, first + end - at)
        block_m, block_n = tile_place(tile, M, N, BLOCK_M, BLOCK_N, GROUP_M)
        if TMA:
            acc = zeros(BLOCK_M, BLOCK_N, TOKEN_ROWS)
            acc = _multiply_tma(
                x, w, block_m * BLOCK_M, block_n * BLOCK_N, first, last, acc, BLOCK_K, STAGES, TOKEN_ROWS, PRECISION
            )
        else:
            # Rows past the end are those of the last row: they are not stored.
            m = tl.minimum(block_m * BLOCK_M + tl.arange(0, BLOCK_M), M - 1)
            n = tl.minimum(block_n * BLOCK_N + tl.arange(0, BLOCK_N), N - 1)
            x_rows, w_rows = x + m.to(tl.int64)[:, None] * K, w + n.to(tl.int64)[:, None] * K
            if SLICES > 1:
                is_token = block_m * BLOCK_M + tl.arange(0, BLOCK_M) < M
                acc = _multiply_sliced(
                    x_rows, w_rows, is_token, first, last, K,
                    BLOCK_M, BLOCK_N, BLOCK_K, SLICES, STAGES, EVEN_K, W_EVICTION, PRECISION,
                )  # fmt: skip
            else:
                acc = zeros(BLOCK_M, BLOCK_N, TOKEN_ROWS)
                acc = _multiply(
                    x_rows, w_rows, first, last, K, acc, BLOCK_K, STAGES, EVEN_K, TOKEN_ROWS, W_EVICTION, PRECISION
                )
        finish_tile(
            acc, out, partials, counters, tile, steps, per_program, M, N,
            BLOCK_M, BLOCK_N, GROUP_M, SPLIT, COMBINE, PARTS, ROWS, TOKEN_ROWS,
        )  # fmt: skip
        at += last - first


def plan(problem: Problem, plan_inputs: Inputs, device: Device) -> StreamKPlan:
    """A tile for the shape, then equal shares."""
    assert isinstance(problem, Linear)
    return stream_k(problem, choice_for(problem, device), device)


def run(inputs: Inputs, state: StreamKPlan) -> Outputs:
    """One launch, or two."""
    x, w = inputs["x"], inputs["w"]
    (m, k), n = x.shape, len(w)
    out = torch.empty((m, n), dtype=getattr(torch, state.out_dtype), device=x.device)
    partials, counters = workspace(state, out)
    is_interpreted = out.is_cpu
    if state.tma:
        x = TensorDescriptor.from_tensor(x, [state.block_m, state.block_k])
        w = TensorDescriptor.from_tensor(w, [state.block_n, state.block_k])
    _linear[(state.num_programs,)](
        x, w, out, partials, counters, m, n, k, state.per_program,
        SLICES=state.slices, TMA=state.tma, TOKEN_ROWS=state.token_rows, W_EVICTION=state.w_eviction, PRECISION="ieee",
        K_MULTIPLE=min(16, k & -k), **options(state, k, is_interpreted),
    )  # fmt: skip
    combine(state, partials, out)
    return {"out": out}


KERNEL = Kernel(origin=Origin.HAND, tasks=("linear",), run=run, plan=plan, requires=("triton",), uses_triton=True)
