"""MLA prefill by PyTorch's FlexAttention, compiled: packed sequences are one long one, under a mask of blocks.

Heads of 192 and 128 are taken as they are. The mask is made in `plan`, as a user makes it once a step for all layers.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from ..inductor import compiled, warm_up
from ..kernel import Kernel, Origin
from ..problem import Inputs, Outputs

if TYPE_CHECKING:
    from ..device import Device
    from ._prefill_problem import MLAPrefill


@dataclass(frozen=True)
class Plan:
    """A compiled call, and its mask."""

    problem: MLAPrefill
    attention: Any
    block_mask: Any


def supports(problem: MLAPrefill, device: Device) -> str | None:
    """None, or the limit that this problem or device is past."""
    if device.kind == "cpu":
        return "FlexAttention returns no LSE on a CPU"
    return None


def attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, block_mask: Any, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """q, k, v [1, num_heads, tokens, head_dim]; (out, natural lse)."""
    out, lse = flex_attention(q, k, v, block_mask=block_mask, scale=scale, return_lse=True)
    return out, lse


@functools.cache
def _compiled(problem: MLAPrefill) -> Any:
    return compiled(attend)


def plan(problem: MLAPrefill, plan_inputs: Inputs, device: Device) -> Plan:
    """Query i of a sequence sees its own tokens up to the one that it is."""
    starts_q, starts_kv = plan_inputs["cu_seqlens_q"].long(), plan_inputs["cu_seqlens_kv"].long()
    sequences = torch.arange(problem.batch, device=starts_q.device)
    of_query = sequences.repeat_interleave(starts_q.diff())
    of_token = sequences.repeat_interleave(starts_kv.diff())
    own_token = torch.arange(len(of_query), device=starts_q.device) - starts_q[of_query + 1] + starts_kv[of_query + 1]

    def sees(batch: Any, head: Any, query: Any, token: Any) -> Any:
        return (of_query[query] == of_token[token]) & (token <= own_token[query])

    block_mask = create_block_mask(sees, None, None, len(of_query), len(of_token), device=str(starts_q.device))
    return Plan(problem, _compiled(problem), block_mask)


def run(inputs: Inputs, plan: Plan) -> Outputs:
    """One call."""
    q, k, v = (inputs[name].transpose(0, 1)[None] for name in ("q", "k", "v"))
    out, lse = plan.attention(q, k, v, plan.block_mask, plan.problem.softmax_scale)
    return {"out": out[0].transpose(0, 1), "lse": lse[0].transpose(0, 1)}


KERNEL = Kernel(
    origin=Origin.VENDOR,
    tasks=("prefill",),
    supports=supports,
    plan=plan,
    run=run,
    warm_up=warm_up,
    version=lambda: torch.__version__,
)
