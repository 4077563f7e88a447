"""The fused QKV projection in Triton, in two launches: norm, then product with QK-norm and RoPE behind it.

A program computes the first and the second halves of the same heads, so that the rotation combines values of one
thread; q, k and v go straight to tensors of their own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..device import Device
from ..kernel import Kernel, Origin
from ..problem import Inputs, Outputs, Problem
from ._gemm_launch import Tensors, launch_gemm, launch_norm
from ._gemm_plan import GemmPlan, Product, gemm_plan, num_counters
from ._gemm_tiles import tile_by_hand
from ._norm_plan import NormPlan, norm_plan, norm_tile
from ._rounding import next_power_of_2
from .problem import QKVProjection


@dataclass(frozen=True)
class QKVPlan:
    """What both kernels are launched with."""

    problem: QKVProjection
    norm: NormPlan
    gemm: GemmPlan


def plan(problem: Problem, plan_inputs: Inputs, device: Device) -> QKVPlan:
    """From shapes alone."""
    assert isinstance(problem, QKVProjection)
    product = Product(
        tokens=problem.tokens,
        n=problem.num_heads + 2 * problem.num_kv_heads,
        k=problem.hidden_size,
        rope=True,
        epsilon=problem.epsilon,
        has_norm=problem.qk_norm,
        num_heads=problem.num_heads,
        num_kv_heads=problem.num_kv_heads,
        half=problem.head_dim // 2,
        half_block=next_power_of_2(problem.head_dim // 2),
    )
    norm = norm_plan(problem.tokens, problem.hidden_size, norm_tile(problem.tokens, device), device)
    return QKVPlan(problem, norm, gemm_plan(product, tile_by_hand(product, device), False, device))


def run(inputs: Inputs, state: QKVPlan) -> Outputs:
    """Two launches."""
    problem, x = state.problem, inputs["x"]
    outputs = {name: x.new_empty(spec.shape) for name, spec in problem.output_specs().items()}
    counters = x.new_empty(num_counters(state.gemm), dtype=torch.int32) if num_counters(state.gemm) else None
    tensors: Tensors = {name: inputs.get(name) for name in ("q_norm_weight", "k_norm_weight")}
    tensors |= {"cos_sin": inputs["cos_sin"], "positions": inputs["positions"]}
    tensors |= {"out": outputs["q"], "k_out": outputs["k"], "v_out": outputs["v"]}
    h = launch_norm(state.norm, x, inputs["norm_weight"], problem.epsilon, counters)
    launch_gemm(state.gemm, h, inputs["w_qkv"], tensors, True, counters, None)
    return outputs


KERNEL = Kernel(origin=Origin.HAND, tasks=("qkv",), run=run, plan=plan, requires=("triton",), uses_triton=True)
