"""Launch decisions of triton_rmsnorm: pure functions of a problem's shape and a `Device`."""

from __future__ import annotations

from dataclasses import dataclass

from ..device import Device
from ..problem import Inputs, Problem
from ._norm_plan import NormPlan, NormTile, norm_plan, norm_tile
from .problem import RMSNorm


@dataclass(frozen=True)
class RMSNormPlan:
    """What the kernel is launched with."""

    problem: RMSNorm
    norm: NormPlan


def plan(problem: Problem, plan_inputs: Inputs, device: Device) -> RMSNormPlan:
    """From the shape alone."""
    assert isinstance(problem, RMSNorm)
    return plan_from(problem, choice_for(problem, device), device)


def plan_from(problem: RMSNorm, tile: NormTile, device: Device) -> RMSNormPlan:
    """What follows from a choice."""
    return RMSNormPlan(problem=problem, norm=norm_plan(problem.tokens, problem.hidden_size, tile, device))


def facts(problem: RMSNorm) -> dict[str, int | str]:
    """What a table of choices tells problems apart by."""
    return {"task": problem.task, "values": problem.tokens * problem.hidden_size}


def choice_for(problem: RMSNorm, device: Device) -> NormTile:
    """What was chosen by hand."""
    return norm_tile(problem.tokens, device)
