"""PyTorch's memory-efficient SDPA (CUTLASS), by `aten::_efficient_attention_forward` in its form for packed sequences.

It knows no grouped heads: keys and values are repeated for each query head first, as whoever uses it has to.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ..kernel import Kernel, Origin
from . import _prefill_lengths

if TYPE_CHECKING:
    from ..device import Device
    from ._prefill_problem import AttentionPrefill
from ..problem import Inputs, Outputs

NO_MASK, FROM_TOP_LEFT, FROM_BOTTOM_RIGHT = 0, 1, 2


@dataclass(frozen=True)
class Plan:
    """Lengths, the mask's kind, and where each query's LSE lies."""

    longest: _prefill_lengths.Longest
    mask: int
    sequence: torch.Tensor
    """[total_q] int64: which sequence a packed row belongs to."""
    place: torch.Tensor
    """[total_q] int64: which query of it."""


def supports(problem: AttentionPrefill, device: Device) -> str | None:
    """None, or the limit that this problem or device is past."""
    if device.kind == "cpu":
        return "memory-efficient SDPA wants a GPU"
    if problem.window:
        return "memory-efficient SDPA's public function has no window"
    if problem.sees_nothing:
        return "memory-efficient SDPA defines no output for queries that see no key"
    if device.kind == "hip" and _mask(problem) == FROM_BOTTOM_RIGHT:
        return "memory-efficient SDPA on ROCm (AOTriton) aligns its causal mask to the top left only"
    return None


def _mask(problem: AttentionPrefill) -> int:
    if not problem.causal:
        return NO_MASK
    return FROM_TOP_LEFT if all(q == kv for q, kv in problem.sequences()) else FROM_BOTTOM_RIGHT


def plan(problem: AttentionPrefill, plan_inputs: Inputs, device: Device) -> Plan:
    """Count the rows of every sequence."""
    starts = plan_inputs["cu_seqlens_q"].long()
    sequence = torch.arange(problem.batch, device=starts.device).repeat_interleave(starts.diff())
    place = torch.arange(len(sequence), device=starts.device) - starts[sequence]
    return Plan(_prefill_lengths.plan(problem, plan_inputs, device), _mask(problem), sequence, place)


def run(inputs: Inputs, plan: Plan) -> Outputs:
    """Repeat the heads, attend, pack the LSE, which is [batch, num_heads, longest rounded up]."""
    problem = plan.longest.problem
    k, v = (inputs[name] for name in ("k", "v"))
    if problem.group > 1:
        k, v = k.repeat_interleave(problem.group, 1), v.repeat_interleave(problem.group, 1)
    out, lse, *_ = torch.ops.aten._efficient_attention_forward(  # noqa: SLF001 - the public function takes no packed sequences
        inputs["q"].unsqueeze(0),
        k.unsqueeze(0),
        v.unsqueeze(0),
        None,
        inputs["cu_seqlens_q"],
        inputs["cu_seqlens_kv"],
        plan.longest.num_queries,
        plan.longest.num_keys,
        0.0,
        plan.mask,
        problem.return_lse,
        scale=problem.softmax_scale,
    )
    out = out.squeeze(0)
    return {"out": out, "lse": lse[plan.sequence, :, plan.place].contiguous()} if problem.return_lse else {"out": out}


KERNEL = Kernel(
    origin=Origin.VENDOR,
    tasks=("prefill",),
    supports=supports,
    plan=plan,
    run=run,
    version=lambda: torch.__version__,
)
