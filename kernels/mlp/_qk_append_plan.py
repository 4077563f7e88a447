"""Launch decisions of triton_qk_append: pure functions of a problem's shape and a `Device`."""

from __future__ import annotations

from dataclasses import dataclass

from ..device import Device
from ..problem import Inputs, Problem
from ._rounding import next_power_of_2
from .problem import QKNormRopeAppend

VALUES_PER_THREAD = 16
"""Of each half of a head: two loads of 16 bytes."""


@dataclass(frozen=True)
class AppendTile:
    """All that is chosen rather than derived."""

    block_h: int
    """Heads of a program."""
    values_per_thread: int = VALUES_PER_THREAD
    """As the constant of that name."""
    load_policy: str = ""
    """Eviction policy of what is read once."""
    store_modifier: str = ""
    """Cache modifier of what is written."""


@dataclass(frozen=True)
class AppendPlan:
    """What the kernel is launched with."""

    problem: QKNormRopeAppend
    block_h: int
    num_warps: int
    load_policy: str
    store_modifier: str


def plan(problem: Problem, plan_inputs: Inputs, device: Device) -> AppendPlan:
    """From the shape alone."""
    assert isinstance(problem, QKNormRopeAppend)
    return plan_from(problem, choice_for(problem, device), device)


def plan_from(problem: QKNormRopeAppend, tile: AppendTile, device: Device) -> AppendPlan:
    """What follows from a choice."""
    threads = tile.block_h * next_power_of_2(problem.head_dim // 2) // tile.values_per_thread
    return AppendPlan(
        problem=problem,
        block_h=tile.block_h,
        num_warps=max(1, threads // max(device.warp_size, 1)),
        load_policy=tile.load_policy,
        store_modifier=tile.store_modifier,
    )


def facts(problem: QKNormRopeAppend) -> dict[str, int]:
    """What a table of choices tells problems apart by."""
    return {"tokens": problem.tokens}


def choice_for(problem: QKNormRopeAppend, device: Device) -> AppendTile:
    """By hand: few heads where tokens are few, and as many of q, k and v together as divide them evenly."""
    heads = problem.num_heads + 2 * problem.num_kv_heads
    sizes = (16, 8) if problem.tokens * heads > device.num_sms * 64 else (8, 4)
    return AppendTile(next((size for size in sizes if heads % size == 0), sizes[-1]))
