"""FlashInfer's prefill of packed sequences; its backends are kernels of their own, one file each.

Source: flashinfer 0.6, flashinfer/prefill.py, `BatchPrefillWithRaggedKVCacheWrapper` with head_dim_qk 192 and
head_dim_vo 128, as its own test of DeepSeek's MLA calls it. Its causal mask ends at the last token, its LSE has base 2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ._dims import QK_HEAD_DIM, V_HEAD_DIM
from ._flashinfer import WORKSPACE_BYTES

if TYPE_CHECKING:
    from ..device import Device
    from ..problem import Inputs, Outputs
    from ._prefill_problem import MLAPrefill

LSE_FACTORS = {"lse": math.log(2)}


@dataclass(frozen=True)
class Plan:
    """A wrapper that has planned."""

    problem: MLAPrefill
    wrapper: Any


def plan(problem: MLAPrefill, plan_inputs: Inputs, device: Device, *, backend: str) -> Plan:
    """Make a wrapper, and have it plan its work for these lengths. Its kernels are compiled in the first plan."""
    import flashinfer

    cu_seqlens_q = plan_inputs["cu_seqlens_q"]
    wrapper = flashinfer.BatchPrefillWithRaggedKVCacheWrapper(
        torch.empty(WORKSPACE_BYTES, dtype=torch.uint8, device=cu_seqlens_q.device), "NHD", backend=backend
    )
    wrapper.plan(
        cu_seqlens_q,
        plan_inputs["cu_seqlens_kv"],
        problem.num_heads,
        problem.num_heads,
        QK_HEAD_DIM,
        head_dim_vo=V_HEAD_DIM,
        causal=True,
        sm_scale=problem.softmax_scale,
        q_data_type=getattr(torch, problem.dtype),
        kv_data_type=getattr(torch, problem.dtype),
    )
    return Plan(problem, wrapper)


def run(inputs: Inputs, plan: Plan) -> Outputs:
    """One call."""
    out, lse = plan.wrapper.run(inputs["q"], inputs["k"], inputs["v"], return_lse=True)
    return {"out": out, "lse": lse}
