"""Linear layers of one to four tokens in Triton, without tensor cores: dot products in fp32 registers.

A program owns a few rows of w and all of K. Its threads load 16 bytes at a time straight into registers and keep a sum
each; the sums are added once, at the end. Nothing is split, nothing waits: with 2048 threads on an SM, each with
several loads under way, the memory is busy all the time. Every weight costs one multiplication for each token, so past
four tokens arithmetic would take longer than memory.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from ..device import Device
from ..kernel import Kernel, Origin
from ..problem import Inputs, Outputs, Problem
from ._stream_k_plan import power_of_2_above
from .problem import Linear

MAX_TOKENS = 4
VALUES = 8
"""That a thread loads at once: 16 bytes."""


@dataclass(frozen=True)
class GemvPlan:
    """What the kernel is launched with."""

    out_dtype: str
    tokens: int
    """M, rounded up to a power of two."""
    block_n: int
    """Rows of w of a program."""
    block_k: int
    unroll: int
    """K steps whose loads are issued together."""
    num_warps: int


@triton.jit
def _gemv(
    x, w, out, M, N, K,
    TOKENS: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, UNROLL: tl.constexpr, EVEN_K: tl.constexpr,
    EVEN_N: tl.constexpr,
):  # fmt: skip
    """Program p: rows [p * BLOCK_N, ..) of w, for all tokens."""
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    w_rows = w + (n if EVEN_N else tl.minimum(n, N - 1)).to(tl.int64)[:, None] * K
    m = tl.arange(0, TOKENS)
    x_rows = x + tl.minimum(m, M - 1)[:, None] * K
    acc = tl.zeros([TOKENS, BLOCK_N, BLOCK_K], tl.float32)
    for start in tl.range(0, K, BLOCK_K, loop_unroll_factor=UNROLL):
        k = (start + tl.arange(0, BLOCK_K))[None, :]
        if EVEN_K:
            w_tile = tl.load(w_rows + k, eviction_policy="evict_first")
            x_tile = tl.load(x_rows + k, eviction_policy="evict_last")
        else:
            w_tile = tl.load(w_rows + k, mask=k < K, other=0.0, eviction_policy="evict_first")
            x_tile = tl.load(x_rows + k, mask=k < K, other=0.0, eviction_policy="evict_last")
        acc += w_tile.to(tl.float32)[None, :, :] * x_tile.to(tl.float32)[:, None, :]
    total = tl.sum(acc, 2)
    pointers = out + m[:, None] * N + n[None, :]
    tl.store(pointers, total.to(out.dtype.element_ty), mask=(m < M)[:, None] & (n < N)[None, :])


def supports(problem: Problem, device: Device) -> str | None:
    """Refuses more tokens than arithmetic keeps up with."""
    assert isinstance(problem, Linear)
    if problem.m > MAX_TOKENS:
        return f"dot products without tensor cores are for up to {MAX_TOKENS} tokens; these are {problem.m}"
    return None


def plan(problem: Problem, plan_inputs: Inputs, device: Device) -> GemvPlan:
    """Four rows a program, fewer where that leaves SMs without work; then longer steps take their place."""
    assert isinstance(problem, Linear)
    tokens = power_of_2_above(problem.m)
    warp_size = max(device.warp_size, 32)
    block_n = 4 if tokens == 1 else 2
    while block_n > 1 and problem.n < block_n * 4 * device.num_sms:
        block_n //= 2
    num_warps = 4 if block_n > 1 else 8
    block_k = min(num_warps * warp_size * VALUES, max(64, power_of_2_above(problem.k)))
    steps = -(-problem.k // block_k)
    return GemvPlan(problem.out_dtype, tokens, block_n, block_k, min(4, steps), num_warps)


def run(inputs: Inputs, state: GemvPlan) -> Outputs:
    """One launch."""
    x, w = inputs["x"], inputs["w"]
    (m, k), n = x.shape, len(w)
    out = torch.empty((m, n), dtype=getattr(torch, state.out_dtype), device=x.device)
    _gemv[(triton.cdiv(n, state.block_n),)](
        x, w, out, m, n, k,
        TOKENS=state.tokens, BLOCK_N=state.block_n, BLOCK_K=state.block_k, UNROLL=state.unroll,
        EVEN_K=k % state.block_k == 0, EVEN_N=n % state.block_n == 0, num_warps=state.num_warps,
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
