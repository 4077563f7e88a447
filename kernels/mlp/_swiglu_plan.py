"""Launch decisions of triton_swiglu: pure functions of a problem's shape and a `Device`."""

from __future__ import annotations

from dataclasses import dataclass

from ..device import Device
from ..problem import Inputs, Problem
from .problem import SwiGLU


@dataclass(frozen=True)
class SwiGLUTile:
    """All that is chosen rather than derived."""

    block: int
    """Columns of a program, all of one row."""
    num_warps: int
    load_policy: str = ""
    """Eviction policy of what is read once."""
    store_modifier: str = ""
    """Cache modifier of what is written."""


@dataclass(frozen=True)
class SwiGLUPlan:
    """What the kernel is launched with."""

    problem: SwiGLU
    block: int
    num_warps: int
    load_policy: str
    store_modifier: str


def plan(problem: Problem, plan_inputs: Inputs, device: Device) -> SwiGLUPlan:
    """From the shape alone."""
    assert isinstance(problem, SwiGLU)
    return plan_from(problem, choice_for(problem, device), device)


def plan_from(problem: SwiGLU, tile: SwiGLUTile, device: Device) -> SwiGLUPlan:
    """What follows from a choice."""
    return SwiGLUPlan(
        problem=problem,
        block=tile.block,
        num_warps=tile.num_warps,
        load_policy=tile.load_policy,
        store_modifier=tile.store_modifier,
    )


def facts(problem: SwiGLU) -> dict[str, int]:
    """What a table of choices tells problems apart by."""
    return {"values": problem.tokens * problem.intermediate_size}


def choice_for(problem: SwiGLU, device: Device) -> SwiGLUTile:
    """By hand: blocks that divide a row, 16 values a thread; smaller ones where few rows have to fill the device."""
    few = problem.tokens * problem.intermediate_size < device.num_sms * 8192
    sizes = (512, 256) if few else (2048, 1024, 512)
    block = next((size for size in sizes if problem.intermediate_size % size == 0), sizes[-1])
    values_per_thread = 8 if few else 16
    return SwiGLUTile(block, num_warps=max(1, block // (values_per_thread * max(device.warp_size, 1))))
