"""Launch decisions of `rmsnorm`: pure functions of a shape and a `Device`."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..device import Device
from ._rounding import next_power_of_2

VALUES_PER_THREAD = 32
"""Of a row, in float32: four loads of 16 bytes of a 16-bit type."""
FEW_VALUES_PER_THREAD = 8
"""Where rows are fewer than SMs: latency counts, and threads are free."""
MIN_TILE = 2048
MAX_WARPS = 16


@dataclass(frozen=True)
class NormTile:
    """All that is chosen rather than derived."""

    values_per_thread: int
    tile_values: int = MIN_TILE
    """Values of a program, where rows are narrower: it takes several."""
    most_warps: int = MAX_WARPS
    programs_per_sm: int = 0
    """Persistent programs, which load the weight once; 0: a program for every block of rows."""
    num_stages: int = 1
    """Blocks of rows that a persistent program has on their way."""
    load_policy: str = ""
    """Eviction policy of what is read once."""
    store_modifier: str = ""
    """Cache modifier of what is written."""
    dependent_launch: bool = False
    """As `NormPlan.dependent_launch`."""


@dataclass(frozen=True)
class NormPlan:
    """What `rmsnorm` is launched with."""

    block_t: int
    """Rows of a program."""
    block_h: int
    """The row's length, rounded up to a power of two."""
    num_programs: int
    persistent: bool
    num_stages: int
    load_policy: str
    store_modifier: str
    num_warps: int
    dependent_launch: bool
    """Whether the device can launch the next kernel before this one has ended."""


def norm_tile(tokens: int, device: Device) -> NormTile:
    """As chosen by hand."""
    few = tokens <= device.num_sms
    return NormTile(
        values_per_thread=FEW_VALUES_PER_THREAD if few else VALUES_PER_THREAD,
        dependent_launch=device.compute_capability >= 90,
    )


def norm_plan(tokens: int, hidden_size: int, tile: NormTile, device: Device) -> NormPlan:
    """From the shape and a choice alone. Narrow rows share a program."""
    block_h = next_power_of_2(hidden_size)
    block_t = max(1, min(tile.tile_values // block_h, next_power_of_2(tokens)))
    warps = block_t * block_h // (tile.values_per_thread * max(device.warp_size, 1))
    num_programs = math.ceil(tokens / block_t)
    if tile.programs_per_sm > 0:
        num_programs = min(num_programs, device.num_sms * tile.programs_per_sm)
    return NormPlan(
        block_t=block_t,
        block_h=block_h,
        num_programs=num_programs,
        persistent=tile.programs_per_sm > 0,
        num_stages=tile.num_stages,
        load_policy=tile.load_policy,
        store_modifier=tile.store_modifier,
        num_warps=min(tile.most_warps, max(1, next_power_of_2(warps))),
        dependent_launch=tile.dependent_launch,
    )
