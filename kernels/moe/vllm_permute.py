"""vLLM's CUDA permutation of tokens: a radix sort of the ids, rows expanded, and the weighted sum that undoes it.

Source: vLLM's fused_moe/moe_permute_unpermute.py. Its offsets begin with 0 and have 64 bits: what `permute` is asked
for is their tail, converted.
"""

from __future__ import annotations

import torch

from ..device import Device
from ..installed import vllm_version
from ..kernel import Kernel, Origin
from ..problem import Inputs, Outputs
from .problem import MoEPermute, MoEUnpermute

ALIGNMENT = 8
"""Columns of 2 bytes in 16."""


def supports(problem: MoEPermute | MoEUnpermute, device: Device) -> str | None:
    """None, or the limit that this problem or device is past."""
    if device.kind != "cuda":
        return "vLLM's moe_permute is a CUDA kernel"
    if problem.hidden_size % ALIGNMENT:
        return "vLLM's moe_permute wants rows that begin at multiples of 16 bytes"
    return None


def run(inputs: Inputs, problem: MoEPermute | MoEUnpermute) -> Outputs:
    """One way or the other."""
    from vllm.model_executor.layers.fused_moe import moe_permute_unpermute as exchange

    if isinstance(problem, MoEUnpermute):
        y = inputs["expert_out"]
        out = torch.empty((problem.tokens, problem.hidden_size), dtype=y.dtype, device=y.device)
        exchange.moe_unpermute(out, y, inputs["topk_weights"], inputs["rows"].flatten())
        return {"out": out}
    permuted, _, offsets, rows, _ = exchange.moe_permute(
        inputs["hidden"], None, inputs["topk_ids"], problem.num_experts
    )
    return {
        "permuted": permuted,
        "rows": rows.view(problem.tokens, problem.top_k),
        "expert_ends": offsets[1:].int(),
    }


KERNEL = Kernel(
    origin=Origin.VENDOR,
    tasks=("permute", "unpermute"),
    supports=supports,
    requires=("vllm.model_executor.layers.fused_moe.moe_permute_unpermute",),
    run=run,
    version=vllm_version,
)
