"""Launch decisions of triton_permute: pure functions of a problem's shape and a `Device`."""

from __future__ import annotations

from dataclasses import dataclass

from ..device import Device
from ..problem import Inputs, Problem
from .problem import MoEPermute, MoEUnpermute

MANY_VALUES = 1 << 20
"""Of all tokens, from which on a program has four warps; fewer are spread over more programs."""


@dataclass(frozen=True)
class ExchangeChoice:
    """All that is chosen rather than derived."""

    block_t: int
    """Tokens of a program."""
    block_h: int
    """Columns of a program."""
    num_warps: int
    dependent_launch: bool = False
    """As `ExchangePlan.dependent_launch`."""


@dataclass(frozen=True)
class ExchangePlan:
    """What the kernels are launched with."""

    problem: MoEPermute | MoEUnpermute
    block_t: int
    block_h: int
    num_warps: int
    dependent_launch: bool
    """Whether the second kernel may be launched before the first one has ended (NVIDIA, from sm_90)."""


def plan(problem: Problem, plan_inputs: Inputs, device: Device) -> ExchangePlan:
    """Every launch decision, from shapes alone."""
    assert isinstance(problem, MoEPermute | MoEUnpermute)
    return plan_from(problem, exchange_choice_for(problem, device), device)


def plan_from(problem: MoEPermute | MoEUnpermute, choice: ExchangeChoice, device: Device) -> ExchangePlan:
    """What follows from a choice."""
    return ExchangePlan(
        problem=problem,
        block_t=choice.block_t,
        block_h=choice.block_h,
        num_warps=choice.num_warps,
        dependent_launch=choice.dependent_launch,
    )


def exchange_facts(problem: MoEPermute | MoEUnpermute) -> dict[str, int | bool]:
    """What a table of choices tells problems apart by."""
    is_back = isinstance(problem, MoEUnpermute)
    return {"is_back": is_back, "hidden_size": problem.hidden_size, "tokens": problem.tokens}


def exchange_choice_for(problem: MoEPermute | MoEUnpermute, device: Device) -> ExchangeChoice:
    """By hand: 16 bytes a thread and load; few tokens are spread over more programs."""
    columns = next_power_of_2(problem.hidden_size)
    if device.kind == "cpu":  # Triton's interpreter wants few programs
        return ExchangeChoice(128, columns, 1, False)
    num_warps = 4 if problem.tokens * problem.hidden_size >= MANY_VALUES else 1
    block_h = min(8 * num_warps * device.warp_size, columns)
    return ExchangeChoice(1, block_h, num_warps, device.compute_capability >= 90)


def next_power_of_2(number: int) -> int:
    """The least power of two that is no less."""
    return 1 << (number - 1).bit_length()
