"""FlashMLA's dense prefill, for Blackwell: CUTLASS, heads of 192 and 128 as they are.

Source: DeepSeek's FlashMLA, flash_mla/flash_mla_interface.py, flash_attn_varlen_func; its LSE is a [total_q, num_heads]
view of the transposed memory.
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
    if device.compute_capability != 100:
        return f"FlashMLA's dense prefill is written for sm_100; this is {device.arch}"
    if problem.dtype != "bfloat16":
        return f"FlashMLA's dense prefill wants bfloat16; this is {problem.dtype}"
    return None


def run(inputs: Inputs, plan: Plan) -> Outputs:
    """One call."""
    import flash_mla

    out, lse = flash_mla.flash_attn_varlen_func(
        inputs["q"],
        inputs["k"],
        inputs["v"],
        plan.cu_seqlens_q,
        plan.cu_seqlens_kv,
        plan.max_q,
        plan.max_kv,
        softmax_scale=plan.problem.softmax_scale,
        causal=True,
    )
    return {"out": out, "lse": lse}


KERNEL = Kernel(
    origin=Origin.VENDOR,
    tasks=("prefill",),
    supports=supports,
    requires=("flash_mla",),
    plan=plan,
    run=run,
    version=package_version("flash_mla"),
)
