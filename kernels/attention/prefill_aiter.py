"""AITER's `flash_attn_varlen_func` for AMD GPUs (CK and assembly). Source: aiter/ops/mha.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..installed import package_version
from ..kernel import Kernel, Origin
from . import _prefill_lengths

if TYPE_CHECKING:
    from ..device import Device
    from ._prefill_problem import AttentionPrefill
from ..problem import Inputs, Outputs

ARCHS = ("gfx942", "gfx950")


def supports(problem: AttentionPrefill, device: Device) -> str | None:
    """None, or the limit that this problem or device is past."""
    if device.arch not in ARCHS:
        return f"AITER's attention is written for {' and '.join(ARCHS)}; this is {device.arch}"
    if problem.sees_nothing:
        return "AITER's attention states no result for queries that see no key"
    return None


def run(inputs: Inputs, plan: _prefill_lengths.Longest) -> Outputs:
    """One call; its LSE is [num_heads, total_q]."""
    from aiter import flash_attn_varlen_func

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
        return_lse=problem.return_lse,
    )
    if not problem.return_lse:
        return {"out": result[0] if isinstance(result, tuple | list) else result}
    return {"out": result[0], "lse": result[1].t().contiguous()}


KERNEL = Kernel(
    origin=Origin.VENDOR,
    tasks=("prefill",),
    supports=supports,
    requires=("aiter",),
    plan=_prefill_lengths.plan,
    run=run,
    version=package_version("aiter"),
)
