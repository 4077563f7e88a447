"""MLA prefill by FlashAttention-2, the package flash-attn. It wants V as wide as K: zeros are appended in `run`.

Source: flash_attn/flash_attn_interface.py, flash_attn_varlen_func; from 2.6 on its LSE is [num_heads, total_q].
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..installed import module_version
from ..kernel import Kernel, Origin
from ._prefill_varlen import Plan, cut, padded, plan

if TYPE_CHECKING:
    from ..device import Device
    from ..problem import Inputs, Outputs
    from ._prefill_problem import MLAPrefill


def supports(problem: MLAPrefill, device: Device) -> str | None:
    """None, or the limit that this problem or device is past."""
    return "FlashAttention-2 wants a GPU" if device.kind == "cpu" else None


def run(inputs: Inputs, plan: Plan) -> Outputs:
    """Pad V, one call, cut the padding off."""
    from flash_attn import flash_attn_varlen_func

    out, lse, _ = flash_attn_varlen_func(
        inputs["q"],
        inputs["k"],
        padded(inputs["v"]),
        plan.cu_seqlens_q,
        plan.cu_seqlens_kv,
        plan.max_q,
        plan.max_kv,
        softmax_scale=plan.problem.softmax_scale,
        causal=True,
        return_attn_probs=True,
    )
    return {"out": cut(out), "lse": lse.t()}


KERNEL = Kernel(
    origin=Origin.VENDOR,
    tasks=("prefill",),
    supports=supports,
    requires=("flash_attn",),
    plan=plan,
    run=run,
    version=module_version("flash_attn"),
)
