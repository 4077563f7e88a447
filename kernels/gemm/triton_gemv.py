"""Linear layers of one to four tokens in Triton, without tensor cores: dot products in fp32 registers.

All programs are resident at once. A program keeps x in registers and goes through rows of w, BLOCK_N at a time: each
thread has its loads of the next rows under way, 16 bytes each, while it adds the products of these. Nothing is split,
nothing waits for another program. Every weight costs one multiplication for each token, so past four tokens
arithmetic would take longer than memory.
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
BY_TOKENS = {1: (2, 8, 2), 2: (1, 16, 2), 4: (2, 16, 1)}
"""Rows loaded at once, warps, programs on an SM: what registers allow. H200, tuning: one token x 8192 x 8192 takes 31.0
us with two rows, 31.1 with one and three programs, 37.9 with four and one; two and four tokens are not timed."""
MAX_BLOCK_K = 8192
"""Values of a row that a program loads at once."""


@dataclass(frozen=True)
class GemvPlan:
    """What the kernel is launched with."""

    out_dtype: str
    tokens: int
    """M, rounded up to a power of two."""
    block_n: int
    """Rows of w that are loaded at once."""
    block_k: int
    num_programs: int
    num_warps: int


@triton.jit
def _load_rows(w, group, part, N, K, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, EVEN_K: tl.constexpr):
    """[1, BLOCK_N, BLOCK_K]: part `part` of K of rows [group * BLOCK_N, ..) of w; past the end the last row.

    Of three dimensions, like the products: so that they stay in the registers that they are loaded into.
    """
    n = tl.minimum(group * BLOCK_N + tl.arange(0, BLOCK_N), N - 1)
    k = (part * BLOCK_K + tl.arange(0, BLOCK_K))[None, None, :]
    pointers = w + n.to(tl.int64)[None, :, None] * K + k
    if EVEN_K:
        return tl.load(pointers, eviction_policy="evict_first")
    return tl.load(pointers, mask=k < K, other=0.0, eviction_policy="evict_first")


@triton.jit
def _load_tokens(x, part, M, K, TOKENS: tl.constexpr, BLOCK_K: tl.constexpr, EVEN_K: tl.constexpr):
    """[TOKENS, 1, BLOCK_K]: part `part` of K of x."""
    m = tl.minimum(tl.arange(0, TOKENS), M - 1)
    k = (part * BLOCK_K + tl.arange(0, BLOCK_K))[None, None, :]
    pointers = x + m[:, None, None] * K + k
    if EVEN_K:
        return tl.load(pointers, eviction_policy="evict_last")
    return tl.load(pointers, mask=k < K, other=0.0, eviction_policy="evict_last")


@triton.jit
def _gemv(
    x, w, out, M, N, K,
    TOKENS: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, PARTS_K: tl.constexpr, EVEN_K: tl.constexpr,
):  # fmt: skip
    """Program p: groups p, p + num_programs, .. of BLOCK_N rows of w, for all tokens, in PARTS_K steps each."""
    group, num_programs = tl.program_id(0), tl.num_programs(0)
    m = tl.arange(0, TOKENS)
    w_next = _load_rows(w, group, 0, N, K, BLOCK_N, BLOCK_K, EVEN_K)
    x_tile = _load_tokens(x, 0, M, K, TOKENS, BLOCK_K, EVEN_K)
    while group < tl.cdiv(N, BLOCK_N):
        total = tl.zeros([TOKENS, BLOCK_N], tl.float32)
        for part in tl.static_range(PARTS_K):
            w_tile = w_next
            if part + 1 < PARTS_K:
                w_next = _load_rows(w, group, part + 1, N, K, BLOCK_N, BLOCK_K, EVEN_K)
            else:
                w_next = _load_rows(w, group + num_programs, 0, N, K, BLOCK_N, BLOCK_K, EVEN_K)
            if PARTS_K > 1:
                x_tile = _load_tokens(x, part, M, K, TOKENS, BLOCK_K, EVEN_K)
            total += tl.sum(w_tile.to(tl.float32) * x_tile.to(tl.float32), 2)
        n = group * BLOCK_N + tl.arange(0, BLOCK_N)
        pointers = out + m[:, None] * N + n[None, :]
        tl.store(pointers, total.to(out.dtype.element_ty), mask=(m < M)[:, None] & (n < N)[None, :])
        group += num_programs


def supports(problem: Problem, device: Device) -> str | None:
    """Refuses more tokens than arithmetic keeps up with."""
    assert isinstance(problem, Linear)
    if problem.m > MAX_TOKENS:
        return f"dot products without tensor cores are for up to {MAX_TOKENS} tokens; these are {problem.m}"
    return None


def plan(problem: Problem, plan_inputs: Inputs, device: Device) -> GemvPlan:
    """64 KB and more under way on every SM."""
    assert isinstance(problem, Linear)
    block_n, num_warps, programs_per_sm = BY_TOKENS[power_of_2_above(problem.m)]
    return gemv(problem, device, block_n=block_n, num_warps=num_warps, programs_per_sm=programs_per_sm)


def gemv(problem: Linear, device: Device, *, block_n: int, num_warps: int, programs_per_sm: int) -> GemvPlan:
    """Programs of equal numbers of groups."""
    tokens = power_of_2_above(problem.m)
    block_k = min(MAX_BLOCK_K, max(64, power_of_2_above(problem.k)))
    groups = triton.cdiv(problem.n, block_n)
    rounds = triton.cdiv(groups, device.num_sms * programs_per_sm)
    return GemvPlan(problem.out_dtype, tokens, block_n, block_k, triton.cdiv(groups, rounds), num_warps)


def run(inputs: Inputs, state: GemvPlan) -> Outputs:
    """One launch."""
    x, w = inputs["x"], inputs["w"]
    (m, k), n = x.shape, len(w)
    out = torch.empty((m, n), dtype=getattr(torch, state.out_dtype), device=x.device)
    _gemv[(state.num_programs,)](
        x, w, out, m, n, k,
        TOKENS=state.tokens, BLOCK_N=state.block_n, BLOCK_K=state.block_k, PARTS_K=triton.cdiv(k, state.block_k),
        EVEN_K=k % state.block_k == 0, num_warps=state.num_warps,
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
