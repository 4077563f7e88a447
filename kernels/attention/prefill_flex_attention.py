"""PyTorch's FlexAttention, compiled, with a block mask that is made in `plan`.

Sequences of one length are a batch and share one mask. Others are one long sequence whose queries see the keys of
their own sequence only: FlexAttention's documented way to pack (document masking).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ..inductor import compiled, warm_up
from ..kernel import Kernel, Origin
from ._prefill_problem import AttentionPrefill

if TYPE_CHECKING:
    from ..device import Device
from ..problem import Inputs, Outputs

MOST_MASK_VALUES = 1 << 31
MaskMod = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Plan:
    """A compiled function, its block mask, and how rows are batched."""

    problem: AttentionPrefill
    attend: Callable[..., Any]
    block_mask: Any
    """None where every query sees every key."""
    batch: int
    """Sequences of one length; 1 where all rows are one long sequence."""


def supports(problem: AttentionPrefill, device: Device) -> str | None:
    """None, or the limit that this problem or device is past."""
    if device.kind == "cpu":
        return "FlexAttention is measured on GPUs: on a CPU it gives no LSE, and compiles for seconds for each problem"
    if device.kind == "cuda" and device.compute_capability < 80:
        return f"FlexAttention wants compute capability 8.0 or more; this is {device.arch}"
    rows = [sum(lengths) for lengths in zip(*problem.sequences()[: 1 if problem.is_uniform else None], strict=True)]
    if rows[0] * rows[1] > MOST_MASK_VALUES:
        return f"FlexAttention makes its block mask from all {rows[0]} x {rows[1]} values, more than fit here"
    return None


def attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, block_mask: Any, scale: float, has_groups: bool, with_lse: bool
) -> Any:
    """(out, lse) where asked for it, else out."""
    from torch.nn.attention.flex_attention import flex_attention

    if not with_lse:
        return flex_attention(q, k, v, block_mask=block_mask, scale=scale, enable_gqa=has_groups)
    from torch.nn.attention.flex_attention import AuxRequest

    out, aux = flex_attention(
        q, k, v, block_mask=block_mask, scale=scale, enable_gqa=has_groups, return_aux=AuxRequest(lse=True)
    )
    return out, aux.lse


@functools.cache
def _compiled(problem: AttentionPrefill, torch_device: str) -> Callable[..., Any]:
    return compiled(attend)


def plan(problem: AttentionPrefill, plan_inputs: Inputs, device: Device) -> Plan:
    """Make the mask; compilation itself waits for the first `run`."""
    from torch.nn.attention.flex_attention import create_block_mask

    starts_q, starts_kv = plan_inputs["cu_seqlens_q"], plan_inputs["cu_seqlens_kv"]
    lengths_q, lengths_kv = starts_q.diff(), starts_kv.diff()
    is_uniform = bool((lengths_q == lengths_q[0]).all()) and bool((lengths_kv == lengths_kv[0]).all())
    batch = problem.batch if is_uniform else 1
    function = _compiled(problem, device.torch_name)
    if is_uniform and not problem.causal:
        return Plan(problem, function, None, batch)
    if is_uniform:
        mask_mod = _within(problem, int(lengths_kv[0] - lengths_q[0]))
    else:
        mask_mod = _across(problem, starts_q.long(), starts_kv.long())
    num_queries, num_keys = int(starts_q[-1]) // batch, int(starts_kv[-1]) // batch
    mask = create_block_mask(mask_mod, None, None, num_queries, num_keys, device=str(starts_q.device))
    return Plan(problem, function, mask, batch)


def _within(problem: AttentionPrefill, offset: int) -> MaskMod:
    """Of one sequence whose first query is at position `offset`."""

    def mask_mod(b: torch.Tensor, h: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        seen = key <= query + offset
        return seen & (key > query + offset - problem.window) if problem.window else seen

    return mask_mod


def _across(problem: AttentionPrefill, starts_q: torch.Tensor, starts_kv: torch.Tensor) -> MaskMod:
    """Of all sequences in a row: a query's position is counted in packed keys."""
    sequences = torch.arange(problem.batch, device=starts_q.device)
    of_query = sequences.repeat_interleave(starts_q.diff())
    of_key = sequences.repeat_interleave(starts_kv.diff())
    position = torch.arange(len(of_query), device=starts_q.device) + (starts_kv[1:] - starts_q[1:])[of_query]

    def mask_mod(b: torch.Tensor, h: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        seen = of_query[query] == of_key[key]
        if problem.causal:
            seen = seen & (key <= position[query])
        return seen & (key > position[query] - problem.window) if problem.window else seen

    return mask_mod


def run(inputs: Inputs, plan: Plan) -> Outputs:
    """One call; the first one compiles."""
    problem = plan.problem
    q, k, v = (inputs[name].unflatten(0, (plan.batch, -1)).transpose(1, 2) for name in ("q", "k", "v"))
    result = plan.attend(q, k, v, plan.block_mask, problem.softmax_scale, problem.group > 1, problem.return_lse)
    out, lse = result if problem.return_lse else (result, None)
    outputs = {"out": out.transpose(1, 2).flatten(0, 1).contiguous()}
    return outputs if lse is None else {**outputs, "lse": lse.transpose(1, 2).flatten(0, 1).contiguous()}


KERNEL = Kernel(
    origin=Origin.VENDOR,
    tasks=("prefill",),
    supports=supports,
    plan=plan,
    run=run,
    warm_up=warm_up,
    version=lambda: torch.__version__,
)
