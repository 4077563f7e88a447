"""The gated MLP in Triton, in two or three launches; nothing wider than the MLP's intermediate goes to memory.

    (1) h = rmsnorm(x); a single token is normed by the second kernel itself
    (2) a = silu(h . gate^T) * (h . up^T): both tiles are one program's, so the gate and up products stay in registers
    (3) out = x + a . down^T

Up to 64 tokens the products stream the weights: `_vector_gemm` for one token, `_hopper_skinny_gemm` for up to 16 on
Hopper, else `_skinny_gemm`. Beyond that they are tiled (`_tile_gemm`). From sm_90 each kernel is launched while the one
ahead still runs, and those that stream fetch their first weights meanwhile.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton

from ..device import Device
from ..kernel import Kernel, Origin
from ..problem import Inputs, Outputs, Problem
from ._gemm_launch import launch_gemm
from ._gemm_plan import GemmPlan, Product, gemm_plan
from ._norm_kernels import NormPlan, norm_plan, rmsnorm
from .problem import MLPBlock


@dataclass(frozen=True)
class BlockPlan:
    """What all kernels are launched with."""

    norm: NormPlan | None
    """None: there is no norm, or the gate and up product norms its input."""
    gate_up: GemmPlan
    down: GemmPlan


def plan(problem: Problem, plan_inputs: Inputs, device: Device) -> BlockPlan:
    """From shapes alone."""
    assert isinstance(problem, MLPBlock)
    tokens, hidden, intermediate = problem.tokens, problem.hidden_size, problem.intermediate_size
    gate_up = Product("swiglu", tokens, n=intermediate, k=hidden, epsilon=problem.epsilon)
    down = Product("plain", tokens, n=hidden, k=intermediate, has_residual=problem.residual)
    gate_up_plan = gemm_plan(gate_up, problem.norm, device)
    norm = norm_plan(tokens, hidden, device) if problem.norm and not gate_up_plan.norm_input else None
    return BlockPlan(norm, gate_up_plan, gemm_plan(down, False, device))


def run(inputs: Inputs, state: BlockPlan) -> Outputs:
    """Two or three launches."""
    x, product = inputs["x"], state.gate_up.product
    counters = None
    if state.gate_up.num_counters:
        counters = (x.new_zeros if state.norm is None else x.new_empty)(state.gate_up.num_counters, dtype=torch.int32)
    next_counters = x.new_empty(state.down.num_counters, dtype=torch.int32) if state.down.num_counters else None
    h = x if state.norm is None else launch_norm(state.norm, x, inputs["norm_weight"], product.epsilon, counters)
    activated = x.new_empty((product.tokens, product.n))
    launch_gemm(
        state.gate_up, h, inputs["w_gate_up"], {"norm_weight": inputs.get("norm_weight"), "out": activated},
        waits=state.norm is not None, counters=counters, next_counters=next_counters,
    )  # fmt: skip
    out = x.new_empty(x.shape)
    launch_gemm(
        state.down, activated, inputs["w_down"], {"out": out, "residual": x}, waits=True, counters=next_counters
    )
    return {"out": out}


def launch_norm(
    tile: NormPlan, x: torch.Tensor, weight: torch.Tensor, epsilon: float, counters: torch.Tensor | None
) -> torch.Tensor:
    """rmsnorm(x); `counters` become 0."""
    tokens, hidden_size = x.shape
    out = x.new_empty(x.shape)
    num_counters = 0 if counters is None else counters.numel()
    rmsnorm[(triton.cdiv(tokens, tile.block_t),)](
        x, None, weight, out, None, counters, tokens, num_counters, epsilon,
        HIDDEN=hidden_size, BLOCK_T=tile.block_t, BLOCK_H=tile.block_h, HAS_RESIDUAL=False,
        BLOCK_C=triton.next_power_of_2(num_counters) if num_counters else 0,
        DEPENDENT_LAUNCH=tile.dependent_launch and not x.is_cpu, num_warps=tile.num_warps,
    )  # fmt: skip
    return out


KERNEL = Kernel(origin=Origin.HAND, tasks=("block",), run=run, plan=plan, requires=("triton",), uses_triton=True)
