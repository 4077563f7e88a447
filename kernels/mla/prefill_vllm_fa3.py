"""MLA prefill by FlashAttention-3 as vLLM builds and calls it on Hopper: V as it is.

Source: vLLM's MLA backends (`_flash_attn_varlen_diff_headdims`); the LSE is [num_heads, total_q].
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..installed import vllm_version
from ..kernel import Kernel, Origin
from ._prefill_varlen import Plan, plan

if TYPE_CHECKING:
    from ..device import Device
    from ..problem import Inputs, Outputs
    from ._prefill_problem import MLAPrefill


def supports(problem: MLAPrefill, device: Device) -> str | None:
    """None, or the limit that this problem or device is past."""
    if device.compute_capability != 90:
        return f"FlashAttention-3 is written for sm_90; this is {device.arch}"
    return None


def run(inputs: Inputs, plan: Plan) -> Outputs:
    """One call."""
    from vllm.vllm_flash_attn.flash_attn_interface import flash_attn_varlen_func

    out, lse = flash_attn_varlen_func(
        q=inputs["q"],
        k=inputs["k"],
        v=inputs["v"],
        max_seqlen_q=plan.max_q,
        cu_seqlens_q=plan.cu_seqlens_q,
        max_seqlen_k=plan.max_kv,
        cu_seqlens_k=plan.cu_seqlens_kv,
        softmax_scale=plan.problem.softmax_scale,
        causal=True,
        return_softmax_lse=True,
        fa_version=3,
    )
    return {"out": out, "lse": lse.t()}


KERNEL = Kernel(
    origin=Origin.VENDOR,
    tasks=("prefill",),
    supports=supports,
    requires=("vllm.vllm_flash_attn._vllm_fa3_C",),
    plan=plan,
    run=run,
    version=vllm_version,
)
