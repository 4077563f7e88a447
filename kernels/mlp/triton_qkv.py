"""The fused QKV projection in Triton, in two launches: norm, then product with QK-norm and RoPE behind it.

A program computes the first and the second halves of the same heads, so that the rotation combines values of one
thread; q, k and v go straight to tensors of their own.
"""

from __future__ import annotations

import torch

from ..kernel import Kernel, Origin
from ..problem import Inputs, Outputs
from ._gemm_launch import Tensors, launch_gemm, launch_norm
from ._gemm_plan import num_counters
from ._qkv_plan import QKVPlan, plan


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
