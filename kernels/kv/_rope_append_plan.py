"""Launch decisions of triton_rope_append."""

from __future__ import annotations

from dataclasses import dataclass

from ..device import Device
from ..problem import Inputs, Problem
from ._plan import RowsPlan, next_power_of_2, rows_plan
from .problem import Append, Rope, RopeAppend

THREAD_VALUES = 128
"""Most values of a tile for a thread. A choice that was made for narrower heads may want more, and would spill."""


@dataclass(frozen=True)
class Plan:
    """What the kernel is launched with."""

    problem: RopeAppend | Append | Rope
    block_tokens: int
    block_heads: int
    num_warps: int
    token_first: bool
    load_policy: str
    store_modifier: str


def plan(problem: Problem, plan_inputs: Inputs, device: Device) -> Plan:
    """Tiles from shapes alone."""
    assert isinstance(problem, RopeAppend | Append | Rope)
    return plan_from(problem, choice_for(problem, device), device)


def plan_from(problem: RopeAppend | Append | Rope, choice: RowsPlan, device: Device) -> Plan:
    """What follows from a choice: no tile is larger than there are tokens and heads, nor than its threads can hold."""
    block_heads = min(choice.block_heads, next_power_of_2(heads_of(problem)))
    row_values = block_heads * next_power_of_2(problem.head_dim)
    held_tokens = THREAD_VALUES * choice.num_warps * device.warp_size // row_values
    return Plan(
        problem=problem,
        block_tokens=max(1, min(choice.block_tokens, next_power_of_2(problem.tokens), held_tokens)),
        block_heads=block_heads,
        num_warps=choice.num_warps,
        token_first=choice.token_first,
        load_policy=choice.load_policy,
        store_modifier=choice.store_modifier,
    )


def heads_of(problem: RopeAppend | Append | Rope) -> int:
    """Of queries, keys and values together."""
    return getattr(problem, "num_heads", 0) + (1 if isinstance(problem, Rope) else 2) * problem.num_kv_heads


def facts(problem: RopeAppend | Append | Rope) -> dict[str, int | bool | str]:
    """What a table of choices tells problems apart by."""
    return {
        "task": problem.task,
        "is_fp8": getattr(problem, "cache_dtype", problem.dtype) != problem.dtype,
        "tokens": problem.tokens,
    }


def choice_for(problem: RopeAppend | Append | Rope, device: Device) -> RowsPlan:
    """What was chosen by hand."""
    return rows_plan(problem.tokens, heads_of(problem), problem.head_dim * 2, device)
