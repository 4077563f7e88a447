"""triton_kernels' grouped product `matmul_ogs`, as vLLM carries it: gather and scatter fused, SwiGLU between.

Source: vLLM's third_party/triton_kernels (matmul_ogs.py, routing.py) and `make_routing_data` in
experts/gpt_oss_triton_kernels_moe.py. Its fused SwiGLU is gpt-oss's (interleaved columns, up + 1), so vLLM's
`silu_and_mul` stands between the two products. Its routing keeps the weights in bfloat16.
"""

from __future__ import annotations

from typing import Any

import torch

from ..device import Device
from ..installed import vllm_version
from ..kernel import Kernel, Origin
from ..problem import Inputs, Outputs
from .problem import MoELayer


def supports(problem: MoELayer, device: Device) -> str | None:
    """None, or the limit that this problem or device is past."""
    if device.kind == "cpu":
        return "triton_kernels want a GPU"
    if (problem.dtype, problem.weight_dtype) != ("bfloat16", "bfloat16"):
        return (
            f"matmul_ogs has no scales of 128 x 128 blocks, and is tried with bfloat16; this is {problem.weight_dtype}"
        )
    if problem.num_local_experts:
        return "matmul_ogs' routing counts every choice as one of an expert that is here"
    if problem.router == "deepseek":
        return "triton_kernels' router is a softmax without groups"
    return None


def _routing(inputs: Inputs, problem: MoELayer) -> Any:
    """(routing data, gather, scatter) of triton_kernels."""
    from vllm.model_executor.layers.fused_moe.experts.gpt_oss_triton_kernels_moe import make_routing_data

    if problem.router == "softmax":
        from triton_kernels.routing import routing

        return routing(inputs["router_logits"], problem.top_k)
    return make_routing_data(inputs["topk_ids"], inputs["topk_weights"], problem.stored_experts)


def run(inputs: Inputs, problem: MoELayer) -> Outputs:
    """Routing, two products, and the activation between them."""
    from triton_kernels.matmul_ogs import matmul_ogs

    routing, gather, scatter = _routing(inputs, problem)
    gate_up = matmul_ogs(inputs["hidden"], inputs["w13"].mT, None, routing, gather_indx=gather)
    h = torch.empty((len(gate_up), problem.intermediate_size), dtype=gate_up.dtype, device=gate_up.device)
    torch.ops._C.silu_and_mul(h, gate_up)  # noqa: SLF001 - the library's name
    out = matmul_ogs(h, inputs["w2"].mT, None, routing, scatter_indx=scatter, gammas=routing.gate_scal)
    return {"out": out.view(problem.tokens, problem.hidden_size)}


KERNEL = Kernel(
    origin=Origin.VENDOR,
    tasks=("layer",),
    supports=supports,
    requires=("vllm.model_executor.layers.fused_moe.experts.gpt_oss_triton_kernels_moe", "triton_kernels.matmul_ogs"),
    run=run,
    version=vllm_version,
)
