"""Launch decisions of triton_gather."""

from __future__ import annotations

from dataclasses import dataclass

from ..device import Device
from ..problem import Inputs, Problem
from ._plan import GatherPlan, gather_plan
from .problem import Gather


@dataclass(frozen=True)
class Plan:
    """What the kernel is launched with."""

    problem: Gather
    num_tokens: int
    block_tokens: int
    seq_block: int
    num_warps: int
    column_parts: int
    load_policy: str
    store_modifier: str


def plan(problem: Problem, plan_inputs: Inputs, device: Device) -> Plan:
    """Tiles from shapes alone."""
    assert isinstance(problem, Gather)
    return plan_from(problem, choice_for(problem, device), device)


def plan_from(problem: Gather, choice: GatherPlan, device: Device) -> Plan:
    """What follows from a choice. Rows are parted where their parts are a multiple of 16 bytes."""
    return Plan(
        problem=problem,
        num_tokens=problem.tokens,
        block_tokens=choice.block_tokens,
        seq_block=choice.seq_block,
        num_warps=choice.num_warps,
        column_parts=choice.column_parts if problem.width % (16 * choice.column_parts) == 0 else 1,
        load_policy=choice.load_policy,
        store_modifier=choice.store_modifier,
    )


def facts(problem: Gather) -> dict[str, int | bool]:
    """What a table of choices tells problems apart by."""
    return {"is_fp8": problem.is_fp8, "tokens": problem.tokens}


def choice_for(problem: Gather, device: Device) -> GatherPlan:
    """What was chosen by hand."""
    return gather_plan(problem.tokens, problem.batch, row_bytes(problem), device)


def row_bytes(problem: Gather) -> int:
    """Of a token's row in the cache."""
    return problem.width * (1 if problem.is_fp8 else 2)
