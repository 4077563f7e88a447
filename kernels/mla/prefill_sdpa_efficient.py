"""MLA prefill by PyTorch's memory-efficient SDPA (CUTLASS), which takes V as it is, packed sequences, and a causal mask
that ends at the last token: `aten::_efficient_attention_forward`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ..kernel import Kernel, Origin
from . import _prefill_varlen

if TYPE_CHECKING:
    from ..device import Device
    from ..problem import Inputs, Outputs
    from ._prefill_problem import MLAPrefill

CAUSAL_FROM_BOTTOM_RIGHT = 2


@dataclass(frozen=True)
class Plan:
    """The layout of a batch, and where each query's LSE is in [batch, tokens]."""

    layout: _prefill_varlen.Plan
    sequence: torch.Tensor
    """[total_q] int64"""
    query: torch.Tensor
    """[total_q] int64: within its sequence."""


def supports(problem: MLAPrefill, device: Device) -> str | None:
    """None, or the limit that this problem or device is past."""
    if device.kind != "cuda":
        return "memory-efficient SDPA takes packed sequences on NVIDIA GPUs only"
    return None


def plan(problem: MLAPrefill, plan_inputs: Inputs, device: Device) -> Plan:
    """The LSE comes padded: which of it are queries'."""
    starts = plan_inputs["cu_seqlens_q"].long()
    sequence = torch.arange(problem.batch, device=starts.device).repeat_interleave(starts.diff())
    query = torch.arange(len(sequence), device=starts.device) - starts[sequence]
    return Plan(_prefill_varlen.plan(problem, plan_inputs, device), sequence, query)


def run(inputs: Inputs, plan: Plan) -> Outputs:
    """One call, and the padding off its LSE."""
    layout = plan.layout
    out, lse, *_ = torch.ops.aten._efficient_attention_forward(  # noqa: SLF001 - the public function drops the LSE
        inputs["q"][None],
        inputs["k"][None],
        inputs["v"][None],
        None,
        layout.cu_seqlens_q,
        layout.cu_seqlens_kv,
        layout.max_q,
        layout.max_kv,
        0.0,
        CAUSAL_FROM_BOTTOM_RIGHT,
        True,
        scale=layout.problem.softmax_scale,
    )
    return {"out": out[0], "lse": lse[plan.sequence, :, plan.query]}  # lse is [batch, num_heads, tokens, padded]


KERNEL = Kernel(
    origin=Origin.VENDOR,
    tasks=("prefill",),
    supports=supports,
    plan=plan,
    run=run,
    version=lambda: torch.__version__,
)
