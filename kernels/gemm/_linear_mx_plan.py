"""Which tile a linear layer with microscaled weights gets in triton_mx: by hand, from its shape and the device."""

from __future__ import annotations

from ..device import Device
from ._stream_k_plan import StreamKPlan, Tile, power_of_2_above, stream_k
from .problem import LinearMX

SCALED_ARCHS = ("gfx950", "sm_100", "sm_103")
"""Devices with microscaled products of their own."""


def facts(problem: LinearMX) -> dict[str, int | bool | str]:
    """What a table of choices tells problems apart by."""
    return {
        "is_4_bits": problem.w_format == "mxfp4",
        "is_x_scaled": problem.x_format == "mxfp8",
        "m": problem.m,
        "n": problem.n,
        "k": problem.k,
    }


def plan_from(problem: LinearMX, tile: Tile, device: Device) -> tuple[LinearMX, StreamKPlan]:
    """What follows from a choice."""
    return problem, stream_k(problem, tile, device)


def choice_for(problem: LinearMX, device: Device) -> Tile:
    """H200, tuning, before scales were loaded in words: 16 x 8192 x 8192 in 4 bits took 29.9 us with these blocks, 44.0
    with 128 features, 54.8 with whole tiles; in 6 bits 113.8, 126.7 with steps of 256, 136.4 with whole tiles of these.
    """
    block_m = min(128, max(16, power_of_2_above(problem.m)))
    if device.arch in SCALED_ARCHS and problem.w_format == "mxfp4":
        per_sm = 2 if block_m <= 32 else 1
        return Tile(block_m, 128, 128, num_warps=4, num_stages=3, programs_per_sm=per_sm, unpack="scaled")
    if device.kind == "hip":
        return Tile(min(block_m, 64), 64, 64, num_warps=4, num_stages=2, programs_per_sm=2)
    block_k = 256 if block_m == 16 and problem.w_format == "mxfp4" else 128
    unpack = "paired" if device.compute_capability >= 80 else "arithmetic"
    return Tile(min(block_m, 64), 64, block_k, num_warps=4, num_stages=4, programs_per_sm=2, unpack=unpack)
