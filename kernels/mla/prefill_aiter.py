"""MLA prefill by AITER's flash attention (Composable Kernel and assembly) for AMD GPUs, V as it is.

Source: AITER's aiter/ops/mha.py, flash_attn_varlen_func, as vLLM's MLA backend for ROCm calls it; the LSE is
[num_heads, total_q].
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..installed import package_version
from ..kernel import Kernel, Origin
from ._prefill_varlen import Plan, plan
from .aiter_mla import ARCHS

if TYPE_CHECKING:
    from ..device import Device
    from ..problem import Inputs, Outputs
    from ._prefill_problem import MLAPrefill


def supports(problem: MLAPrefill, device: Device) -> str | None:
    """None, or the limit that this problem or device is past."""
    if device.arch not in ARCHS:
        return f"AITER is written for {' and '.join(ARCHS)}; this is {device.arch}"
    return None


def run(inputs: Inputs, plan: Plan) -> Outputs:
    """One call."""
    from aiter import flash_attn_varlen_func

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
        return_lse=True,
    )
    return {"out": out, "lse": lse.t()}


KERNEL = Kernel(
    origin=Origin.VENDOR,
    tasks=("prefill",),
    supports=supports,
    requires=("aiter",),
    plan=plan,
    run=run,
    version=package_version("aiter"),
)
