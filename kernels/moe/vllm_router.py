"""vLLM's routers: `topk_softmax` and the fused grouped top-k of DeepSeek-V3, both CUDA.

Source: vLLM's _custom_ops.py, as router/fused_topk_router.py and router/grouped_topk_router.py call them. The grouped
kernel also serves ungrouped sigmoid scores, as one group.
"""

from __future__ import annotations

import torch

from ..device import Device
from ..installed import vllm_version
from ..kernel import Kernel, Origin
from ..problem import Inputs, Outputs
from .problem import MoERouter

MOST_GROUPS = 32
SIGMOID = 1
"""`scoring_func` of the grouped kernel for raw logits."""


def supports(problem: MoERouter, device: Device) -> str | None:
    """None, or the limit that this problem or device is past."""
    if device.kind != "cuda":
        return "vLLM's fused routers are CUDA kernels"
    if problem.scoring == "softmax" and problem.num_groups > 1:
        return "vLLM's fused grouped top-k wants a correction bias, which softmax scores have none of here"
    if problem.num_groups > MOST_GROUPS or problem.top_k > MOST_GROUPS:
        return "vLLM's fused grouped top-k takes up to 32 groups and 32 experts a token"
    if problem.scoring == "softmax" and problem.scaling_factor != 1.0:
        return "vLLM's topk_softmax knows no scaling factor"
    return None


def run(inputs: Inputs, problem: MoERouter) -> Outputs:
    """One call."""
    from vllm import _custom_ops as ops

    logits = inputs["router_logits"]
    if problem.scoring == "sigmoid":
        weights, ids = ops.grouped_topk(
            logits, problem.num_groups, problem.top_groups, problem.top_k, problem.renormalize,
            problem.scaling_factor, inputs["correction_bias"], SIGMOID,
        )  # fmt: skip
        return {"weights": weights, "ids": ids}
    shape = (problem.tokens, problem.top_k)
    weights = torch.empty(shape, dtype=torch.float32, device=logits.device)
    ids = torch.empty(shape, dtype=torch.int32, device=logits.device)
    ops.topk_softmax(weights, ids, torch.empty_like(ids), logits, problem.renormalize)
    return {"weights": weights, "ids": ids}


KERNEL = Kernel(
    origin=Origin.VENDOR,
    tasks=("router",),
    supports=supports,
    requires=("vllm._custom_ops",),
    run=run,
    version=vllm_version,
)
