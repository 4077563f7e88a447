"""What the SDPA adapters of prefill share: packed sequences as batches of one length, [n, num_heads, tokens, head_dim].

SDPA knows no packed sequences. Where all sequences have one length the packed tensors are viewed as a batch; else every
sequence is a call of its own. Nothing is copied or padded. The calls are the aten operators that
`torch.nn.functional.scaled_dot_product_attention` dispatches to, because it drops their LSE.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ._dims import V_HEAD_DIM
from ._prefill_problem import MLAPrefill
from ._prefill_varlen import lengths_of

if TYPE_CHECKING:
    from ..device import Device
    from ..problem import Inputs, Outputs

Attend = Callable[
    [torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None, float], tuple[torch.Tensor, torch.Tensor]
]
"""(q, k [n, heads, tokens, 192], v [n, heads, tokens, 128], additive mask [new tokens, tokens], or None where
`is_causal` says it: as many queries as tokens; softmax scale)
-> (out [n, heads, new tokens, 128], lse [n, heads, new tokens])."""


@dataclass(frozen=True)
class Group:
    """A call: sequences of one length that follow each other."""

    rows_q: slice
    rows_kv: slice
    batch: int
    mask: torch.Tensor | None


@dataclass(frozen=True)
class Plan:
    """The calls that a batch takes."""

    problem: MLAPrefill
    groups: tuple[Group, ...]


def plan(problem: MLAPrefill, plan_inputs: Inputs, device: Device) -> Plan:
    """One group of all sequences, or one for each that has new tokens."""
    lengths = lengths_of(problem, plan_inputs)
    where, dtype = plan_inputs["cu_seqlens_q"].device, getattr(torch, problem.dtype)
    groups, at_q, at_kv = [], 0, 0
    if len(set(lengths)) == 1:
        lengths = [(lengths[0][0] * len(lengths), lengths[0][1] * len(lengths))]
    batch = problem.batch if len(lengths) == 1 else 1
    for num_q, num_kv in lengths:
        rows_q, rows_kv = slice(at_q, at_q + num_q), slice(at_kv, at_kv + num_kv)
        at_q, at_kv = rows_q.stop, rows_kv.stop
        if num_q:
            mask = None if num_q == num_kv else _causal_mask(num_q // batch, num_kv // batch, dtype, where)
            groups.append(Group(rows_q, rows_kv, batch, mask))
    return Plan(problem, tuple(groups))


def run_with(attend: Attend, inputs: Inputs, plan: Plan) -> Outputs:
    """`attend` for every group."""
    q, k, v = inputs["q"], inputs["k"], inputs["v"]
    outs, lses = [], []
    for group in plan.groups:
        own_q, own_k, own_v = (
            tensor[rows].unflatten(0, (group.batch, -1)).transpose(1, 2)
            for tensor, rows in ((q, group.rows_q), (k, group.rows_kv), (v, group.rows_kv))
        )
        out, lse = attend(own_q, own_k, own_v, group.mask, plan.problem.softmax_scale)
        outs.append(out.transpose(1, 2).flatten(0, 1))
        lses.append(lse.transpose(1, 2).flatten(0, 1))
    if len(outs) == 1:
        return {"out": outs[0].contiguous(), "lse": lses[0].contiguous()}
    if not outs:
        return {"out": q.new_empty((0, q.shape[1], V_HEAD_DIM)), "lse": q.new_empty((0, q.shape[1])).float()}
    return {"out": torch.cat(outs), "lse": torch.cat(lses)}


def _causal_mask(num_q: int, num_kv: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Query i sees keys up to num_kv - num_q + i: 0 there, -inf past it."""
    last_seen = torch.arange(num_q, device=device)[:, None] + num_kv - num_q
    hidden = torch.arange(num_kv, device=device) > last_seen
    return torch.zeros(hidden.shape, dtype=dtype, device=device).masked_fill_(hidden, float("-inf"))
