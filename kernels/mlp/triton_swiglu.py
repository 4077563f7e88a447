"""SwiGLU's product in Triton: silu(gate) * up, bound by memory, with 16-byte loads and stores."""

from __future__ import annotations

from dataclasses import dataclass

import triton
import triton.language as tl

from ..device import Device
from ..kernel import Kernel, Origin
from ..problem import Inputs, Outputs, Problem
from ._activation import silu
from .problem import SwiGLU


@dataclass(frozen=True)
class SwiGLUPlan:
    """What the kernel is launched with."""

    problem: SwiGLU
    block: int
    """Columns of a program, all of one row."""
    num_warps: int


def plan(problem: Problem, plan_inputs: Inputs, device: Device) -> SwiGLUPlan:
    """Blocks that divide a row, 16 values a thread; smaller ones where there are few rows to fill the device with."""
    assert isinstance(problem, SwiGLU)
    few = problem.tokens * problem.intermediate_size < device.num_sms * 8192
    sizes = (512, 256) if few else (2048, 1024, 512)
    block = next((size for size in sizes if problem.intermediate_size % size == 0), sizes[-1])
    values_per_thread = 8 if few else 16
    return SwiGLUPlan(problem, block, num_warps=max(1, block // (values_per_thread * max(device.warp_size, 1))))


@triton.jit
def _swiglu(gate_up, out, INTERMEDIATE: tl.constexpr, BLOCK: tl.constexpr):
    """Program i: columns [i % n * BLOCK, ..) of row i // n, where n blocks cover a row."""
    blocks: tl.constexpr = (INTERMEDIATE + BLOCK - 1) // BLOCK
    row = (tl.program_id(0) // blocks).to(tl.int64)
    column = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    mask = column < INTERMEDIATE
    at = gate_up + row * (2 * INTERMEDIATE) + column
    gate = tl.load(at, mask=mask, other=0.0).to(tl.float32)
    up = tl.load(at + INTERMEDIATE, mask=mask, other=0.0).to(tl.float32)
    tl.store(out + row * INTERMEDIATE + column, (silu(gate) * up).to(out.dtype.element_ty), mask=mask)


def run(inputs: Inputs, state: SwiGLUPlan) -> Outputs:
    """One launch."""
    tokens, intermediate_size = state.problem.tokens, state.problem.intermediate_size
    out = inputs["gate_up"].new_empty((tokens, intermediate_size))
    _swiglu[(tokens * triton.cdiv(intermediate_size, state.block),)](
        inputs["gate_up"], out, INTERMEDIATE=intermediate_size, BLOCK=state.block, num_warps=state.num_warps
    )
    return {"out": out}


KERNEL = Kernel(origin=Origin.HAND, tasks=("swiglu",), run=run, plan=plan, requires=("triton",), uses_triton=True)
