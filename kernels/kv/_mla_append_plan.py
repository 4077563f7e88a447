"""Launch decisions of triton_mla_append."""

from __future__ import annotations

from dataclasses import dataclass

from ..device import Device
from ..problem import Inputs, Problem
from ._plan import RowsPlan, next_power_of_2, rows_plan
from .problem import QK_ROPE_HEAD_DIM, MLAAppend


@dataclass(frozen=True)
class Plan:
    """What the kernel is launched with."""

    problem: MLAAppend
    block_tokens: int
    block_heads: int
    num_warps: int
    token_first: bool
    load_policy: str
    store_modifier: str


def plan(problem: Problem, plan_inputs: Inputs, device: Device) -> Plan:
    """Tiles from shapes alone."""
    assert isinstance(problem, MLAAppend)
    return plan_from(problem, choice_for(problem, device), device)


def plan_from(problem: MLAAppend, choice: RowsPlan, device: Device) -> Plan:
    """What follows from a choice: no tile is larger than there are tokens and heads."""
    return Plan(
        problem=problem,
        block_tokens=min(choice.block_tokens, next_power_of_2(problem.tokens)),
        block_heads=min(choice.block_heads, next_power_of_2(problem.num_heads)),
        num_warps=choice.num_warps,
        token_first=choice.token_first,
        load_policy=choice.load_policy,
        store_modifier=choice.store_modifier,
    )


def facts(problem: MLAAppend) -> dict[str, int | bool | str]:
    """What a table of choices tells problems apart by."""
    return {"is_fp8": problem.is_fp8, "cos_sin_dtype": problem.cos_sin_dtype, "tokens": problem.tokens}


def choice_for(problem: MLAAppend, device: Device) -> RowsPlan:
    """What was chosen by hand."""
    return rows_plan(problem.tokens, problem.num_heads, QK_ROPE_HEAD_DIM * 2, device)
