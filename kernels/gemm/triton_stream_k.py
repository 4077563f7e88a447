"""Linear layers in Triton: stream-K over transposed tiles, for any M; see `_stream_k`.

w is streamed through shared memory in tiles of [BLOCK_N, BLOCK_K], pipelined; enough stages and programs per SM keep
64 KB and more of it in flight on every SM. x is small and comes from the cache.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from ..device import Device
from ..kernel import Kernel, Origin
from ..problem import Inputs, Outputs, Problem
from ._stream_k import finish_tile, launch, let_dependents_launch, tile_place
from ._stream_k_plan import WHOLE, StreamKPlan, Tile, power_of_2_above, stream_k
from .problem import Linear

SMALL_BYTES = 8 << 20
"""Of w, that is read in no time: latency alone counts."""
FULL_WAVE = 0.85
"""Least share of the SMs that whole tiles must keep busy, one on each: the others cost less than partial sums."""
SCRATCH_BYTES = 24 << 10
"""Shared memory that is left to other things than stages."""


@triton.jit
def _multiply(
    x_rows, w_rows, first, last, K, acc,
    BLOCK_K: tl.constexpr, STAGES: tl.constexpr, EVEN_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """acc [BLOCK_N, BLOCK_M] and the products of K steps [first, last)."""
    for step in tl.range(first, last, num_stages=STAGES):
        k = (step * BLOCK_K + tl.arange(0, BLOCK_K))[None, :]
        if EVEN_K:
            w_tile, x_tile = tl.load(w_rows + k), tl.load(x_rows + k)
        else:
            w_tile = tl.load(w_rows + k, mask=k < K, other=0.0)
            x_tile = tl.load(x_rows + k, mask=k < K, other=0.0)
        acc = tl.dot(w_tile, x_tile.T, acc=acc, input_precision=PRECISION)
    return acc


@triton.jit
def _multiply_sliced(
    x_rows, w_rows, is_token, first, last, K,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, SLICES: tl.constexpr, STAGES: tl.constexpr,
    EVEN_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """As `_multiply`, of a tile too small for all warps: each multiplies a slice of every step, of all features."""
    SLICE: tl.constexpr = BLOCK_K // SLICES
    acc = tl.zeros([SLICES, BLOCK_N, BLOCK_M], tl.float32)
    k_within = (tl.arange(0, SLICES) * SLICE)[:, None, None] + tl.arange(0, SLICE)[None, None, :]
    for step in tl.range(first, last, num_stages=STAGES):
        k = step * BLOCK_K + k_within
        if EVEN_K:
            w_tile = tl.load(w_rows[None, :, :] + k)
            x_tile = tl.load(x_rows[None, :, :] + k, mask=is_token[None, :, None], other=0.0)
        else:
            w_tile = tl.load(w_rows[None, :, :] + k, mask=k < K, other=0.0)
            x_tile = tl.load(x_rows[None, :, :] + k, mask=is_token[None, :, None] & (k < K), other=0.0)
        acc = tl.dot(w_tile, tl.permute(x_tile, (0, 2, 1)), acc=acc, input_precision=PRECISION)
    return tl.sum(acc, 0)


@triton.jit
def _linear(
    x, w, out, partials, counters, M, N, K, per_program,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP_M: tl.constexpr, PARTS: tl.constexpr,
    STAGES: tl.constexpr, SPLIT: tl.constexpr, COMBINE: tl.constexpr, EVEN_K: tl.constexpr,
    DEPENDENT_LAUNCH: tl.constexpr, SLICES: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Program p: K steps [p * per_program, ..) of all tiles laid end to end."""
    let_dependents_launch(DEPENDENT_LAUNCH)
    steps = tl.cdiv(K, BLOCK_K)
    at = tl.program_id(0) * per_program
    end = tl.minimum(at + per_program, tl.cdiv(M, BLOCK_M) * tl.cdiv(N, BLOCK_N) * steps)
    while at < end:
        tile = at // steps
        first = at - tile * steps
        last = tl.minimum(steps, first + end - at)
        block_m, block_n = tile_place(tile, M, N, BLOCK_M, BLOCK_N, GROUP_M)
        # Rows past the end are those of the last row: they are not stored.
        m = tl.minimum(block_m * BLOCK_M + tl.arange(0, BLOCK_M), M - 1)
        n = tl.minimum(block_n * BLOCK_N + tl.arange(0, BLOCK_N), N - 1)
        x_rows, w_rows = x + m.to(tl.int64)[:, None] * K, w + n.to(tl.int64)[:, None] * K
        if SLICES > 1:
            is_token = block_m * BLOCK_M + tl.arange(0, BLOCK_M) < M
            acc = _multiply_sliced(
                x_rows, w_rows, is_token, first, last, K,
                BLOCK_M, BLOCK_N, BLOCK_K, SLICES, STAGES, EVEN_K, PRECISION,
            )  # fmt: skip
        else:
            acc = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
            acc = _multiply(x_rows, w_rows, first, last, K, acc, BLOCK_K, STAGES, EVEN_K, PRECISION)
        finish_tile(
            acc, out, partials, counters, tile, steps, per_program, M, N,
            BLOCK_M, BLOCK_N, GROUP_M, SPLIT, COMBINE, PARTS,
        )  # fmt: skip
        at += last - first


def plan(problem: Problem, plan_inputs: Inputs, device: Device) -> StreamKPlan:
    """A tile for the shape, then equal shares."""
    assert isinstance(problem, Linear)
    return stream_k(problem, _tile(problem, device), device)


def _tile(problem: Linear, device: Device) -> Tile:
    """By bytes in flight, and by what compiles without spilled registers. Times: us, H200, tuning."""
    block_m = min(128, max(16, power_of_2_above(problem.m)))
    if problem.dtype == "float32":
        return Tile(min(block_m, 32), 64, 32, num_warps=4, num_stages=2, programs_per_sm=2)
    if device.kind == "hip":
        return _tile_amd(problem, block_m, device)
    if device.shared_memory_bytes < 155 * 1024:  # sm_86, sm_89, sm_120
        return _tile_small(problem, block_m)
    if problem.n * problem.k * 2 <= SMALL_BYTES and problem.m <= 128:
        return _tile_latency(problem, block_m, device)
    if block_m <= 32:
        return _tile_bandwidth(problem, block_m, device)
    # Every block of features reads all of x from the L2: past 32 tokens as much as of w, so blocks become wider. But
    # many parts of a wide tile are added by a second kernel: 128 x 2112 x 7168 took 37.2 so, and 15.4 with half of the
    # features. 128 x 8192 x 8192 takes 41.1 in two parts.
    if problem.m <= 256 and 3 * triton.cdiv(problem.m, 128) * triton.cdiv(problem.n, 128) <= device.num_sms:
        return Tile(block_m, 64, 64, num_warps=4, num_stages=_stages(block_m + 64, 64, device))
    if block_m == 64:
        return Tile(64, 128, 64, num_warps=4, num_stages=4, programs_per_sm=2)
    block_n, stages = (128, _stages(128 + 128, 64, device)) if problem.m <= 256 else (256, 3)
    return Tile(128, block_n, 64, num_warps=8, num_stages=stages)


def _tile_small(problem: Linear, block_m: int) -> Tile:
    """Tiles for 99 KB of shared memory. Not timed."""
    if block_m <= 32 and problem.n * problem.k * 2 <= SMALL_BYTES:
        return Tile(block_m, 16, 256, num_warps=4, num_stages=2, programs_per_sm=2)
    if block_m <= 32:
        return Tile(block_m, 64, 128, num_warps=4, num_stages=3)
    if block_m == 64:
        return Tile(64, 128, 64, num_warps=4, num_stages=3)
    if problem.m <= 256:
        return Tile(128, 64, 64, num_warps=4, num_stages=3)
    return Tile(128, 128, 64, num_warps=8, num_stages=2)


def _tile_amd(problem: Linear, block_m: int, device: Device) -> Tile:
    """Tiles that fit the LDS: two stages on gfx942's 64 KB, of which one lies in registers."""
    if device.warp_size == 32:
        return Tile(min(block_m, 64), 64, 32, num_warps=4, num_stages=2)
    if block_m <= 32:
        return Tile(block_m, 64, 128, num_warps=4, num_stages=2, programs_per_sm=2)
    if problem.m <= 256:
        return Tile(64, 64, 64, num_warps=4, num_stages=2, programs_per_sm=2)
    return Tile(128, 256 if device.shared_memory_bytes > 64 * 1024 else 128, 64, num_warps=8, num_stages=2)


def _tile_latency(problem: Linear, block_m: int, device: Device) -> Tile:
    """For up to 128 tokens where w is small."""
    if block_m <= 32:  # 16 x 256 x 7168: 6.7, and 8.6 where every program has a whole tile
        return Tile(block_m, 16, 256, num_warps=4, num_stages=2, programs_per_sm=2)
    if triton.cdiv(problem.m, 16) * triton.cdiv(problem.n, 16) <= device.num_sms:
        return _sliced(16, 16, 512, device)  # 128 x 256 x 7168: 9.9, 13.0 in shares of 64 x 64
    return Tile(64, 64, 128, num_warps=4, num_stages=3, programs_per_sm=2)


def _tile_bandwidth(problem: Linear, block_m: int, device: Device) -> Tile:
    """For up to 32 tokens: whole tiles, one on each SM, where some width of them keeps nearly all SMs busy."""
    block_n = max(16, power_of_2_above(triton.cdiv(problem.n, device.num_sms)))
    if block_n > 64 or triton.cdiv(problem.n, block_n) < FULL_WAVE * device.num_sms:
        return Tile(block_m, 64, 128, num_warps=4, num_stages=5, programs_per_sm=2)
    if block_n == 64:  # 16 x 8192 x 8192: 32.9, 34.6 in shares, 35.1 sliced
        return Tile(block_m, 64, 128, num_warps=4, num_stages=_stages(block_m + 64, 128, device), min_steps=WHOLE)
    # 16 x 2112 x 7168: 11.6, 14.2 in shares of 64 features; 12.1 with half of a step
    return _sliced(block_m, block_n, 1024 if block_m + block_n == 32 else 512, device)


def _sliced(block_m: int, block_n: int, block_k: int, device: Device) -> Tile:
    """Whole tiles of few features: eight warps have a slice of every step each."""
    stages = _stages(block_m + block_n, block_k, device) + 1  # one stage of these products lies in registers
    return Tile(block_m, block_n, block_k, num_warps=8, num_stages=stages, slices=8, min_steps=WHOLE)


def _stages(rows: int, block_k: int, device: Device) -> int:
    """As many as shared memory holds, of `rows` rows of x and w together."""
    return (device.shared_memory_bytes - SCRATCH_BYTES) // (rows * block_k * 2)


def run(inputs: Inputs, state: StreamKPlan) -> Outputs:
    """One launch, or two."""
    x, w = inputs["x"], inputs["w"]
    out = torch.empty((len(x), len(w)), dtype=getattr(torch, state.out_dtype), device=x.device)
    launch(_linear, state, out, x.shape[1], (x, w), SLICES=state.slices, PRECISION="ieee")
    return {"out": out}


KERNEL = Kernel(origin=Origin.HAND, tasks=("linear",), run=run, plan=plan, requires=("triton",), uses_triton=True)
