"""flash-attn's `flash_attn_varlen_func` (FlashAttention-2). Source: flash_attn/flash_attn_interface.py, 2.8."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..installed import module_version
from ..kernel import Kernel, Origin
from . import _prefill_lengths

if TYPE_CHECKING:
    from ..device import Device
    from ._prefill_problem import AttentionPrefill
from ..problem import Inputs, Outputs


def supports(problem: AttentionPrefill, device: Device) -> str | None:
    """None, or the limit that this problem or device is past."""
    if device.kind == "cpu" or (device.kind == "cuda" and device.compute_capability < 80):
        return f"flash-attn wants an NVIDIA GPU of compute capability 8.0 or more, or an AMD GPU; this is {device.arch}"
    if problem.return_lse and problem.sees_nothing:
        return "flash-attn gives plus infinity as the LSE of queries that see no key"
    return None


def run(inputs: Inputs, plan: _prefill_lengths.Longest) -> Outputs:
    """One call; its LSE is [num_heads, total_q]."""
    from flash_attn import flash_attn_varlen_func  # type: ignore[import-not-found,unused-ignore]

    problem = plan.problem
    result = flash_attn_varlen_func(
        inputs["q"],
        inputs["k"],
        inputs["v"],
        cu_seqlens_q=inputs["cu_seqlens_q"],
        cu_seqlens_k=inputs["cu_seqlens_kv"],
        max_seqlen_q=plan.num_queries,
        max_seqlen_k=plan.num_keys,
        softmax_scale=problem.softmax_scale,
        causal=problem.causal,
        window_size=plan.window_size,
        return_attn_probs=problem.return_lse,  # its way to ask for the LSE; the probabilities come with dropout only
    )
    return {"out": result[0], "lse": result[1].t().contiguous()} if problem.return_lse else {"out": result}


KERNEL = Kernel(
    origin=Origin.VENDOR,
    tasks=("prefill",),
    supports=supports,
    requires=("flash_attn",),
    plan=_prefill_lengths.plan,
    run=run,
    version=module_version("flash_attn", "flash-attn {}"),
)
