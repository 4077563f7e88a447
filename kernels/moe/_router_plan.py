"""Launch decisions of triton_router: pure functions of a problem's shape and a `Device`."""

from __future__ import annotations

from dataclasses import dataclass

from ..device import Device
from ..problem import Inputs, Problem
from .problem import MoERouter

EXPERTS_OF_A_WARP = 512


@dataclass(frozen=True)
class RouterChoice:
    """All that is chosen rather than derived."""

    block_t: int
    """Tokens of a program."""
    num_warps: int
    late_scores: bool = False
    """Whether scores of the chosen are computed once more instead of sought along with them."""


@dataclass(frozen=True)
class RouterPlan:
    """What the kernel is launched with."""

    problem: MoERouter
    block_t: int
    num_warps: int
    late_scores: bool


def plan(problem: Problem, plan_inputs: Inputs, device: Device) -> RouterPlan:
    """Every launch decision, from shapes alone."""
    assert isinstance(problem, MoERouter)
    return plan_from(problem, router_choice_for(problem, device), device)


def plan_from(problem: MoERouter, choice: RouterChoice, device: Device) -> RouterPlan:
    """What follows from a choice."""
    return RouterPlan(
        problem=problem, block_t=choice.block_t, num_warps=choice.num_warps, late_scores=choice.late_scores
    )


def router_facts(problem: MoERouter) -> dict[str, int | bool]:
    """What a table of choices tells problems apart by."""
    return {"is_grouped": problem.num_groups > 1, "experts": problem.num_experts, "tokens": problem.tokens}


def router_choice_for(problem: MoERouter, device: Device) -> RouterChoice:
    """By hand: one warp (wavefront) and token for up to 512 experts; Triton's interpreter wants few programs."""
    block_t = 64 if device.kind == "cpu" else 1
    return RouterChoice(block_t, 1 if problem.num_experts <= EXPERTS_OF_A_WARP else 4)
