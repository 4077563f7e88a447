"""What adapters of kernels for packed sequences share: the layout of a batch, and V padded to the width of K."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ._dims import QK_HEAD_DIM, V_HEAD_DIM
from ._prefill_problem import MLAPrefill

if TYPE_CHECKING:
    from ..device import Device
    from ..problem import Inputs


@dataclass(frozen=True)
class Plan:
    """What a call needs besides the data."""

    problem: MLAPrefill
    cu_seqlens_q: torch.Tensor
    cu_seqlens_kv: torch.Tensor
    max_q: int
    """New tokens of the longest sequence."""
    max_kv: int


def plan(problem: MLAPrefill, plan_inputs: Inputs, device: Device) -> Plan:
    """The layout, and its longest sequences."""
    lengths = lengths_of(problem, plan_inputs)
    cu_seqlens_q, cu_seqlens_kv = plan_inputs["cu_seqlens_q"], plan_inputs["cu_seqlens_kv"]
    return Plan(problem, cu_seqlens_q, cu_seqlens_kv, max(q for q, _ in lengths), max(kv for _, kv in lengths))


def lengths_of(problem: MLAPrefill, plan_inputs: Inputs) -> list[tuple[int, int]]:
    """(new tokens, all tokens) of every sequence; of meta tensors, what the problem draws."""
    if plan_inputs["cu_seqlens_q"].is_meta:
        return problem.sequence_lengths()
    new_tokens, tokens = (plan_inputs[name].diff().tolist() for name in ("cu_seqlens_q", "cu_seqlens_kv"))
    return list(zip(new_tokens, tokens, strict=True))


def padded(v: torch.Tensor) -> torch.Tensor:
    """V with 64 columns of zeros more, for kernels that want it as wide as K; a user pads in every call too."""
    return torch.nn.functional.pad(v, (0, QK_HEAD_DIM - V_HEAD_DIM))


def cut(out: torch.Tensor) -> torch.Tensor:
    """The first 128 columns of what such a kernel returns, in memory of their own."""
    return out[..., :V_HEAD_DIM].contiguous()
