"""Large linear layers in Triton for Hopper and later: persistent programs, tiles loaded and stored by TMA descriptors.

Tiles of 128 tokens x 256 features, where there are enough of them: 85 FLOPs for each byte that comes from the cache,
and two warpgroups that hold 128 accumulators a thread. Tiles go through groups of GROUP_M token blocks, so that what
the SMs read at one time stays in the L2. A program goes from tile to tile, and its stores run while the next tile's
loads are on their way.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from ..device import Device
from ..kernel import Kernel, Origin
from ..problem import Inputs, Outputs, Problem
from ._stream_k import tile_place
from .problem import Linear

TMA_BYTES = 16
"""A descriptor's rows begin at multiples of this."""
MIN_TOKENS = 128
NARROW_COST = 1.2
"""Time of two tiles of 128 features over that of one of 256, guessed: 64 FLOPs for each byte, and not 85."""


@dataclass(frozen=True)
class TMAPlan:
    """What the kernel is launched with."""

    out_dtype: str
    block_m: int
    block_n: int
    block_k: int
    group_m: int
    num_programs: int
    subtiles: int
    """Parts that a tile is stored in, one after the other: they share one buffer."""
    num_warps: int
    num_stages: int


@triton.jit
def _linear_tma(
    x, w, out, M, N, K,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP_M: tl.constexpr,
    NUM_PROGRAMS: tl.constexpr, SUBTILES: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """x, w and out are descriptors; what lies past their ends reads as 0 and is not written."""
    tiles = tl.cdiv(M, BLOCK_M) * tl.cdiv(N, BLOCK_N)
    for tile in tl.range(tl.program_id(0), tiles, NUM_PROGRAMS):
        block_m, block_n = tile_place(tile, M, N, BLOCK_M, BLOCK_N, GROUP_M)
        m, n = block_m * BLOCK_M, block_n * BLOCK_N
        acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
        for step in tl.range(0, tl.cdiv(K, BLOCK_K), num_stages=STAGES):
            k = step * BLOCK_K
            acc = tl.dot(x.load([m, k]), w.load([n, k]).T, acc=acc)
        if SUBTILES == 2:
            halves = acc.reshape(BLOCK_M, 2, BLOCK_N // 2).permute(0, 2, 1)
            left, right = tl.split(halves)
            out.store([m, n], left.to(out.dtype))
            out.store([m, n + BLOCK_N // 2], right.to(out.dtype))
        else:
            out.store([m, n], acc.to(out.dtype))


def supports(problem: Problem, device: Device) -> str | None:
    """Devices without TMA, rows that it cannot address, and few tokens."""
    assert isinstance(problem, Linear)
    if device.compute_capability < 90:
        return f"tensor descriptors need sm_90 or later; this is {device.arch}"
    if problem.m < MIN_TOKENS or problem.dtype == "float32":
        return f"tiles of {MIN_TOKENS} tokens are for 16-bit products of at least as many"
    out_bytes = 4 if problem.out_dtype == "float32" else 2
    if problem.k * 2 % TMA_BYTES or problem.n * out_bytes % TMA_BYTES:
        return f"tensor descriptors want rows of a multiple of {TMA_BYTES} bytes: n is {problem.n}, k is {problem.k}"
    return None


def plan(problem: Problem, plan_inputs: Inputs, device: Device) -> TMAPlan:
    """The largest tile where there are tiles enough for all SMs."""
    assert isinstance(problem, Linear)
    blocks_m = triton.cdiv(problem.m, 128)
    large_smem = device.shared_memory_bytes >= 200 * 1024
    if 2 * blocks_m * triton.cdiv(problem.n, 128) <= device.num_sms:
        # w counts then, and every SM must read it. H200, tuning: 128 x 8192 x 8192 takes 39.8 us so, and 41.1 in
        # stream-K's shares.
        block_n, large_stages = 64, 7 if problem.out_dtype == "float32" else 8
    elif large_smem and _is_wide(blocks_m, problem.n, device):
        block_n, large_stages = 256, 3 if problem.out_dtype == "float32" else 4
    else:
        block_n, large_stages = 128, 3
    tiles = blocks_m * triton.cdiv(problem.n, block_n)
    return TMAPlan(
        out_dtype=problem.out_dtype,
        block_m=128,
        block_n=block_n,
        block_k=64,
        group_m=8,
        num_programs=min(tiles, device.num_sms),
        subtiles=1 if block_n == 64 else 2,
        num_warps=4 if block_n == 64 else 8,
        num_stages=large_stages if large_smem else 2,
    )


def _is_wide(blocks_m: int, n: int, device: Device) -> bool:
    """Whether tiles of 256 features are enough for all SMs, and do not leave too many of them idle at the end."""
    tiles, narrow_tiles = (blocks_m * math.ceil(n / width) for width in (256, 128))
    waves, narrow_waves = math.ceil(tiles / device.num_sms), math.ceil(narrow_tiles / device.num_sms)
    return tiles >= device.num_sms and 2 * waves <= NARROW_COST * narrow_waves


def run(inputs: Inputs, state: TMAPlan) -> Outputs:
    """One launch."""
    x, w = inputs["x"], inputs["w"]
    (m, k), n = x.shape, len(w)
    out = torch.empty((m, n), dtype=getattr(torch, state.out_dtype), device=x.device)
    _linear_tma[(state.num_programs,)](
        TensorDescriptor.from_tensor(x, [state.block_m, state.block_k]),
        TensorDescriptor.from_tensor(w, [state.block_n, state.block_k]),
        TensorDescriptor.from_tensor(out, [state.block_m, state.block_n // state.subtiles]),
        m, n, k,
        BLOCK_M=state.block_m, BLOCK_N=state.block_n, BLOCK_K=state.block_k, GROUP_M=state.group_m,
        NUM_PROGRAMS=state.num_programs, SUBTILES=state.subtiles, STAGES=state.num_stages, num_warps=state.num_warps,
    )  # fmt: skip
    return {"out": out}


KERNEL = Kernel(
    origin=Origin.HAND,
    tasks=("linear",),
    run=run,
    plan=plan,
    supports=supports,
    requires=("triton",),
    uses_triton=True,
)
