"""vLLM's fused experts in Triton, with the tile sizes that vLLM has tuned for this device where it has.

Source: `fused_experts` in vLLM's fused_moe/fused_moe.py (0.24). With a router, vLLM's own comes first. Choices that
are not on this device are marked by a map of experts, as vLLM does it: ids are global there, so -1 becomes the number
of one that is elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..device import Device
from ..installed import vllm_version
from ..kernel import Kernel, Origin
from ..problem import Inputs, Outputs
from . import vllm_router
from ._maths import router_of
from .problem import BLOCK, MoELayer


@dataclass(frozen=True)
class Plan:
    """What a call needs besides the data."""

    problem: MoELayer
    expert_map: torch.Tensor | None
    """[stored experts + 1] int32: the experts themselves, and -1 for one that is elsewhere."""


def supports(problem: MoELayer, device: Device) -> str | None:
    """None, or the limit that this problem or device is past."""
    if device.kind == "cpu":
        return "vLLM's fused experts want a GPU"
    return vllm_router.supports(router_of(problem), device) if problem.router != "given" else None


def plan(problem: MoELayer, plan_inputs: Inputs, device: Device) -> Plan:
    """The map of experts."""
    if not problem.num_local_experts:
        return Plan(problem, None)
    experts = torch.arange(problem.stored_experts + 1, dtype=torch.int32, device=device.torch_name)
    return Plan(problem, torch.where(experts < problem.stored_experts, experts, -1).int())


def run(inputs: Inputs, plan: Plan) -> Outputs:
    """The router, where there is one, and one call of vLLM's experts."""
    from vllm.model_executor.layers.fused_moe.config import fp8_w8a8_moe_quant_config
    from vllm.model_executor.layers.fused_moe.fused_moe import fused_experts

    problem, ids, weights = plan.problem, inputs.get("topk_ids"), inputs.get("topk_weights")
    if problem.router != "given":
        chosen = vllm_router.run(inputs, router_of(problem))
        ids, weights = chosen["ids"], chosen["weights"]
    assert ids is not None
    quantization = None
    if problem.is_fp8:
        quantization = fp8_w8a8_moe_quant_config(
            w1_scale=inputs["w13_scale"], w2_scale=inputs["w2_scale"], block_shape=[BLOCK, BLOCK]
        )
    if plan.expert_map is not None:
        ids = torch.where(ids < 0, problem.stored_experts, ids)
    out = fused_experts(
        inputs["hidden"],
        inputs["w13"],
        inputs["w2"],
        weights,
        ids,
        global_num_experts=problem.stored_experts + (plan.expert_map is not None),
        expert_map=plan.expert_map,
        quant_config=quantization,
    )
    return {"out": out}


KERNEL = Kernel(
    origin=Origin.VENDOR,
    tasks=("layer",),
    supports=supports,
    requires=("vllm.model_executor.layers.fused_moe.fused_moe",),
    plan=plan,
    run=run,
    version=vllm_version,
)
