"""FlashAttention-3 as vLLM builds it. Source: vLLM's vllm_flash_attn/flash_attn_interface.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..installed import vllm_version
from ..kernel import Kernel, Origin
from . import _prefill_lengths

if TYPE_CHECKING:
    from ..device import Device
    from ._prefill_problem import AttentionPrefill
from ..problem import Inputs, Outputs


def supports(problem: AttentionPrefill, device: Device) -> str | None:
    """None, or the limit that this problem or device is past."""
    if device.compute_capability != 90:
        return f"FlashAttention-3 is written for sm_90; this is {device.arch}"
    if problem.sees_nothing:
        return "FlashAttention-3 states no result for queries that see no key"
    return None


def run(inputs: Inputs, plan: _prefill_lengths.Longest) -> Outputs:
    """One call; its LSE is [num_heads, total_q]."""
    from vllm.vllm_flash_attn.flash_attn_interface import flash_attn_varlen_func

    problem = plan.problem
    result = flash_attn_varlen_func(
        q=inputs["q"],
        k=inputs["k"],
        v=inputs["v"],
        max_seqlen_q=plan.num_queries,
        cu_seqlens_q=inputs["cu_seqlens_q"],
        max_seqlen_k=plan.num_keys,
        cu_seqlens_k=inputs["cu_seqlens_kv"],
        softmax_scale=problem.softmax_scale,
        causal=problem.causal,
        window_size=list(plan.window_size),
        return_softmax_lse=problem.return_lse,
        fa_version=3,
    )
    return {"out": result[0], "lse": result[1].t().contiguous()} if problem.return_lse else {"out": result}


KERNEL = Kernel(
    origin=Origin.VENDOR,
    tasks=("prefill",),
    supports=supports,
    requires=("vllm.vllm_flash_attn._vllm_fa3_C",),
    plan=_prefill_lengths.plan,
    run=run,
    version=vllm_version,
)
