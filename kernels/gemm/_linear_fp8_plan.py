"""Which tile an 8-bit linear layer gets in triton_fp8: by hand, from its shape and the device."""

from __future__ import annotations

from ..device import Device
from ._stream_k_plan import TMA_ALIGNED, Tile, power_of_2_above
from .problem import LinearFP8

GROUP = 128
"""K that a step is of: the group of a block scale."""


def facts(problem: LinearFP8) -> dict[str, int | bool]:
    """What a table of choices tells problems apart by."""
    return {"m": problem.m, "n": problem.n, "k": problem.k}


def choice_for(problem: LinearFP8, device: Device) -> Tile:
    """A step is always one group of 128."""
    block_m = min(128, max(16, power_of_2_above(problem.m)))
    if problem.k % 4:  # rows begin anywhere: their loads pass through registers, an element or two at once; not timed
        return Tile(min(block_m, 32), 32, GROUP, num_warps=4, num_stages=2, programs_per_sm=3)
    if device.kind == "hip":
        if problem.m > 256 and device.shared_memory_bytes > 64 * 1024:
            return Tile(128, 128, GROUP, num_warps=8, num_stages=2)
        return Tile(min(block_m, 64), 64, GROUP, num_warps=4, num_stages=2, programs_per_sm=2)
    small = device.shared_memory_bytes < 155 * 1024  # sm_89, sm_120
    if block_m <= 64:
        # H200, tuning: 64 x 7168 x 2048, 16 steps, takes 10.0 us; 12.8 in two parts of 128 features; 13.9 in shares
        # of two SMs' programs. One program with twice the stages on each SM: 10.5.
        stages, per_sm = (3, 1) if small else (6, 2)
        return Tile(block_m, 64, GROUP, num_warps=4, num_stages=stages, programs_per_sm=per_sm, min_steps=16)
    if device.arch == "sm_90":
        return _tile_hopper(problem)
    if problem.m <= 256:  # wider blocks of features read x less often
        return Tile(block_m, 128, GROUP, num_warps=8, num_stages=3 if small else 6)
    return Tile(128, 128, GROUP, num_warps=8, num_stages=2 if small else 4)


def _tile_hopper(problem: LinearFP8) -> Tile:
    """For more than 64 tokens. A step's product and the sum are both in registers: 128 x 128 by pointers spill 36 to
    70 of them, by descriptors and in turns of two steps none. Not timed."""
    if problem.k % TMA_ALIGNED:  # addresses of single words take registers too
        return Tile(64, 128, GROUP, num_warps=8, num_stages=6)
    if problem.m <= 128:  # w alone counts
        return Tile(128, 64, GROUP, num_warps=8, num_stages=6)
    return Tile(128, 128, GROUP, num_warps=8, num_stages=3, tma=True, unroll=2)
