"""MLA prefill by FlashAttention-3 from its own package, which takes heads of 192 and 128 as they are.

Source: flash-attention's hopper/flash_attn_interface.py, flash_attn_varlen_func; its LSE is [num_heads, total_q].
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..installed import package_version
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
    from flash_attn_interface import flash_attn_varlen_func

    out, lse, *_ = flash_attn_varlen_func(
        inputs["q"],
        inputs["k"],
        inputs["v"],
        plan.cu_seqlens_q,
        plan.cu_seqlens_kv,
        plan.max_q,
        plan.max_kv,
        softmax_scale=plan.problem.softmax_scale,
        causal=True,
        return_attn_probs=True,
    )
    return {"out": out, "lse": lse.t()}


KERNEL = Kernel(
    origin=Origin.VENDOR,
    tasks=("prefill",),
    supports=supports,
    requires=("flash_attn_interface",),
    plan=plan,
    run=run,
    version=package_version("flash_attn_3"),
)
