"""What PyTorch's SDPA adapters share: packed sequences as the batches that SDPA takes, and what it cannot do.

`torch.nn.functional.scaled_dot_product_attention` takes [batch, heads, length, head_dim], all sequences of one length.
Where they are, packed rows are such a batch by strides alone. Where they are not, each sequence is a call of its own;
a padded or nested batch would do more work, or be refused by most backends. Its causal mask is aligned to the top
left, so that fewer queries than keys, and a window, need a mask of their own [queries, keys]; and it drops the LSE.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ._prefill_problem import AttentionPrefill

if TYPE_CHECKING:
    from ..device import Device
    from ..problem import Inputs, Outputs

Attend = Callable[
    [torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None, bool, AttentionPrefill],
    tuple[torch.Tensor, torch.Tensor | None],
]
"""(q [n, heads, queries, d], k and v [n, kv heads, keys, d], bool mask or None, is_causal, problem)
-> (out as q, lse [n, heads, queries] or None where the problem wants none)."""


@dataclass(frozen=True)
class Call:
    """One call: `count` sequences of one length that follow each other."""

    count: int
    queries: slice
    keys: slice
    mask: torch.Tensor | None
    """[queries, keys] bool, True is seen; None where `is_causal` says it all."""
    is_causal: bool


@dataclass(frozen=True)
class Plan:
    """The calls that a problem takes; queries that see nothing are in none where their sequence has no key."""

    problem: AttentionPrefill
    calls: tuple[Call, ...]


def without_lse(problem: AttentionPrefill) -> str | None:
    """None, or that the public function has no LSE."""
    return "PyTorch's public SDPA returns no LSE" if problem.return_lse else None


def plan(problem: AttentionPrefill, plan_inputs: Inputs, device: Device) -> Plan:
    """One call where all lengths are equal, else one for each sequence with a query and a key."""
    starts_q, starts_kv = (plan_inputs[name].tolist() for name in ("cu_seqlens_q", "cu_seqlens_kv"))
    where = plan_inputs["cu_seqlens_q"].device
    rows = list(zip(starts_q, starts_q[1:], starts_kv, starts_kv[1:], strict=False))
    if len({(q_end - q, kv_end - kv) for q, q_end, kv, kv_end in rows}) == 1:
        rows = [(0, starts_q[-1], 0, starts_kv[-1])]
    calls = []
    for q, q_end, kv, kv_end in rows:
        count = problem.batch if len(rows) == 1 else 1
        num_queries, num_keys = (q_end - q) // count, (kv_end - kv) // count
        if num_queries and num_keys:
            is_causal = problem.causal and num_queries == num_keys and not problem.window
            mask = _mask(problem, num_queries, num_keys, where) if problem.causal and not is_causal else None
            calls.append(Call(count, slice(q, q_end), slice(kv, kv_end), mask, is_causal))
    return Plan(problem, tuple(calls))


def run_with(attend: Attend, inputs: Inputs, plan: Plan) -> Outputs:
    """`attend` for every call; queries without a key keep out = 0 and lse = -inf."""
    problem, q = plan.problem, inputs["q"]
    if len(plan.calls) == 1 and plan.calls[0].queries == slice(0, len(q)):
        out, lse = _attend(attend, inputs, plan.calls[0], problem)
        outputs = {"out": out.contiguous()}
        return outputs if lse is None else {**outputs, "lse": lse.contiguous()}
    outputs = {"out": torch.zeros_like(q)}
    if problem.return_lse:
        outputs["lse"] = q.new_full(q.shape[:2], float("-inf"), dtype=torch.float32)
    for call in plan.calls:
        out, lse = _attend(attend, inputs, call, problem)
        outputs["out"][call.queries] = out
        if lse is not None:
            outputs["lse"][call.queries] = lse
    return outputs


def _attend(
    attend: Attend, inputs: Inputs, call: Call, problem: AttentionPrefill
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(out [rows, heads, d], lse [rows, heads] or None) of a call's rows."""
    rows = {"q": call.queries, "k": call.keys, "v": call.keys}
    q, k, v = (inputs[name][own].unflatten(0, (call.count, -1)).transpose(1, 2) for name, own in rows.items())
    out, lse = attend(q, k, v, call.mask, call.is_causal, problem)
    return out.transpose(1, 2).flatten(0, 1), None if lse is None else lse.transpose(1, 2).flatten(0, 1)


def _mask(problem: AttentionPrefill, num_queries: int, num_keys: int, where: torch.device) -> torch.Tensor:
    position = torch.arange(num_keys - num_queries, num_keys, device=where)[:, None]
    key = torch.arange(num_keys, device=where)
    seen = key <= position
    return seen & (key > position - problem.window) if problem.window else seen
