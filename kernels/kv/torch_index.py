"""Eager PyTorch: what a user writes without a library. Every operation is a kernel of its own.

Tokens that are written are listed once in `plan`, as an engine does once for all layers. Caches are updated by
`index_copy_`, as bytes where they hold fp8, which has no indexing.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..device import Device
from ..kernel import Kernel, Origin
from ..problem import Inputs, Outputs, Problem
from ._append_problem import Append
from ._gather_problem import Gather
from ._mla_append_problem import MLAAppend
from ._paged import PagedAppend
from ._rope_append_problem import RopeAppend
from ._rope_problem import Rope


@dataclass(frozen=True)
class Plan:
    """Which rows are moved."""

    problem: Problem
    slots: torch.Tensor | None = None
    """[written tokens] int64; of gather, of every token."""
    tokens: torch.Tensor | None = None
    """[written tokens] int64 where some tokens are padding."""


def plan(problem: Problem, plan_inputs: Inputs, device: Device) -> Plan:
    """List the slots."""
    if isinstance(problem, Gather):
        return Plan(problem, _slots_of_tokens(problem, plan_inputs))
    if not isinstance(problem, PagedAppend):
        return Plan(problem)
    slots = plan_inputs["slot_mapping"]
    if problem.padding == 0:
        return Plan(problem, slots)
    tokens = torch.nonzero(slots >= 0).flatten()
    return Plan(problem, slots[tokens], tokens)


def _slots_of_tokens(problem: Gather, plan_inputs: Inputs) -> torch.Tensor:
    table, starts = plan_inputs["block_table"].long(), plan_inputs["cu_seqlens"].long()
    token = torch.arange(problem.tokens, device=table.device)
    sequence = torch.searchsorted(starts, token, right=True) - 1
    place = token - starts[sequence]
    return table[sequence, place // problem.page_size] * problem.page_size + place % problem.page_size


def turned(x: torch.Tensor, inputs: Inputs, is_neox: bool) -> torch.Tensor:
    """[tokens, heads, head_dim] -> float32, turned."""
    cos, sin = inputs["cos_sin_cache"][inputs["positions"]].float().unsqueeze(1).chunk(2, dim=-1)
    rotary_dim = 2 * cos.shape[-1]
    turning, rest = x[..., :rotary_dim].float(), x[..., rotary_dim:]
    if is_neox:
        a, b = turning.chunk(2, dim=-1)
        out = torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)
    else:
        a, b = turning.unflatten(-1, (-1, 2)).unbind(-1)
        out = torch.stack((a * cos - b * sin, b * cos + a * sin), dim=-1).flatten(-2)
    return torch.cat((out, rest.float()), dim=-1) if rest.shape[-1] else out


def write(cache: torch.Tensor, rows: torch.Tensor, scale: float, state: Plan) -> None:
    """Rows [tokens, ...] into the cache."""
    assert state.slots is not None
    if state.tokens is not None:
        rows = rows[state.tokens]
    if cache.dtype.itemsize == 1:
        largest = torch.finfo(cache.dtype).max
        rows = (rows.float() / scale).clamp_(-largest, largest).to(cache.dtype).view(torch.uint8)
        cache = cache.view(torch.uint8)
    cache.flatten(0, 1).index_copy_(0, state.slots, rows.to(cache.dtype))


def run(inputs: Inputs, state: Plan) -> Outputs:
    """The task's own operations."""
    problem = state.problem
    if isinstance(problem, Rope):
        return {f"{n}_out": turned(inputs[n], inputs, problem.is_neox).to(inputs[n].dtype) for n in ("q", "k")}
    if isinstance(problem, Gather):
        return {"out": _gathered(inputs["cache"], problem, state)}
    if isinstance(problem, MLAAppend):
        k_rope = turned(inputs["k_rope"].unsqueeze(1), inputs, problem.is_neox).squeeze(1)
        row = torch.cat((inputs["latent"], k_rope.to(inputs["latent"].dtype)), dim=-1)
        write(inputs["kv_cache"], row, problem.kv_scale, state)
        q_rope = inputs["q_rope"]
        return {"q_out": turned(q_rope, inputs, problem.is_neox).to(q_rope.dtype)}
    if isinstance(problem, Append):
        write(inputs["k_cache"], inputs["k"], problem.k_scale, state)
        write(inputs["v_cache"], inputs["v"], problem.v_scale, state)
        return {}
    assert isinstance(problem, RopeAppend)
    write(inputs["k_cache"], turned(inputs["k"], inputs, problem.is_neox), problem.k_scale, state)
    write(inputs["v_cache"], inputs["v"], problem.v_scale, state)
    return {"q_out": turned(inputs["q"], inputs, problem.is_neox).to(inputs["q"].dtype)}


def _gathered(cache: torch.Tensor, problem: Gather, state: Plan) -> torch.Tensor:
    assert state.slots is not None
    if not problem.is_fp8:
        return cache.flatten(0, 1).index_select(0, state.slots)
    rows = cache.view(torch.uint8).flatten(0, 1).index_select(0, state.slots).view(cache.dtype)
    return (rows.float() * problem.kv_scale).to(getattr(torch, problem.dtype))


KERNEL = Kernel(
    origin=Origin.VENDOR,
    tasks=("rope_append", "append", "mla_append", "gather", "rope"),
    run=run,
    plan=plan,
    version=lambda: torch.__version__,
)
