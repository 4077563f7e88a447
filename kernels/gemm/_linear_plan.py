"""Which tile a 16- or 32-bit linear layer gets in triton_stream_k: by hand, from its shape and the device."""

from __future__ import annotations

import math

from ..device import Device
from ._stream_k_plan import WHOLE, Tile, power_of_2_above
from .problem import Linear

SMALL_BYTES = 8 << 20
"""Of w, that is read in no time: latency alone counts."""
FULL_WAVE = 0.85
"""Least share of the SMs that whole tiles must keep busy, one on each: the others cost less than partial sums."""
LEAST_SLICED = 0.25
"""Least share of the SMs that sliced tiles, which are whole, must keep busy."""
SCRATCH_BYTES = 24 << 10
"""Shared memory that is left to other things than stages."""


def facts(problem: Linear) -> dict[str, int | bool]:
    """What a table of choices tells problems apart by."""
    return {"is_float32": problem.dtype == "float32", "m": problem.m, "n": problem.n, "k": problem.k}


def choice_for(problem: Linear, device: Device) -> Tile:
    """By bytes in flight, and by what compiles without spilled registers. Times: us, H200, tuning."""
    block_m = min(128, max(16, power_of_2_above(problem.m)))
    if problem.dtype == "float32":
        return Tile(min(block_m, 32), 64, 32, num_warps=4, num_stages=2, programs_per_sm=2)
    if problem.k % 2:  # no load of a row is wider than one element, or under way in shared memory; not timed
        return Tile(min(block_m, 64), 64, 32, num_warps=4, num_stages=2, programs_per_sm=3)
    if device.kind == "hip":
        return _tile_amd(problem, block_m, device)
    if device.shared_memory_bytes < 155 * 1024:  # sm_86, sm_89, sm_120
        return _tile_small(problem, block_m)
    if problem.n * problem.k * 2 <= SMALL_BYTES and problem.m <= 128:
        return _tile_latency(problem, block_m, device)
    return _tile_bandwidth(problem, block_m, device) if block_m <= 32 else _tile_many(problem, block_m, device)


def _tile_many(problem: Linear, block_m: int, device: Device) -> Tile:
    """For more than 32 tokens. Every block of features reads all of x from the L2, as much as of w: blocks are wider.

    But many parts of a wide tile are added by a second kernel: 128 x 2112 x 7168 took 37.2 so, and 15.4 with half of
    the features. 128 x 8192 x 8192 takes 41.1 in two parts.
    """
    if 3 * _cdiv(problem.m, 128) * _cdiv(problem.n, 128) <= device.num_sms:
        return Tile(block_m, 64, 64, num_warps=4, num_stages=_stages(block_m + 64, 64, device))
    if block_m == 64:
        return Tile(64, 128, 64, num_warps=4, num_stages=4, programs_per_sm=2)
    if problem.m <= 256 or _cdiv(problem.m, 128) * _cdiv(problem.n, 256) < FULL_WAVE * device.num_sms:
        return Tile(128, 128, 64, num_warps=8, num_stages=_stages(128 + 128, 64, device))
    return Tile(128, 256, 64, num_warps=8, num_stages=3)


def _tile_small(problem: Linear, block_m: int) -> Tile:
    """Tiles for 99 KB of shared memory. Not timed."""
    if block_m <= 32 and problem.n * problem.k * 2 <= SMALL_BYTES:
        return Tile(block_m, 16, 256, num_warps=4, num_stages=2, programs_per_sm=2)
    if block_m <= 32:
        return Tile(block_m, 64, 128, num_warps=4, num_stages=3)
    if block_m == 64:
        return Tile(64, 128, 64, num_warps=4, num_stages=3)
    if problem.m <= 256:
        return Tile(128, 64, 64, num_warps=4, num_stages=3)
    return Tile(128, 128, 64, num_warps=8, num_stages=2)


def _tile_amd(problem: Linear, block_m: int, device: Device) -> Tile:
    """Tiles that fit the LDS: two stages on gfx942's 64 KB, of which one lies in registers."""
    if device.warp_size == 32:
        return Tile(min(block_m, 64), 64, 32, num_warps=4, num_stages=2)
    if block_m <= 32:
        return Tile(block_m, 64, 128, num_warps=4, num_stages=2, programs_per_sm=2)
    if problem.m <= 256 or 3 * _cdiv(problem.m, 128) * _cdiv(problem.n, 128) <= device.num_sms:
        return Tile(64, 64, 64, num_warps=4, num_stages=2, programs_per_sm=2)
    return Tile(128, 256 if device.shared_memory_bytes > 64 * 1024 else 128, 64, num_warps=8, num_stages=2)


def _tile_latency(problem: Linear, block_m: int, device: Device) -> Tile:
    """For up to 128 tokens where w is small."""
    if block_m <= 32:  # 16 x 256 x 7168: 6.7, and 8.6 where every program has a whole tile
        return Tile(block_m, 16, 256, num_warps=4, num_stages=2, programs_per_sm=2)
    tiles = _cdiv(problem.m, 16) * _cdiv(problem.n, 16)
    if LEAST_SLICED * device.num_sms <= tiles <= device.num_sms:
        return _sliced(16, 16, 512, device)  # 128 x 256 x 7168: 9.9, 13.0 in shares of 64 x 64
    if tiles <= device.num_sms:  # they alone would leave most SMs idle; not timed
        return Tile(block_m, 16, 256, num_warps=4, num_stages=2, programs_per_sm=2)
    return Tile(64, 64, 128, num_warps=4, num_stages=3, programs_per_sm=2)


def _tile_bandwidth(problem: Linear, block_m: int, device: Device) -> Tile:
    """For up to 32 tokens: whole tiles, one on each SM, where some width of them keeps nearly all SMs busy."""
    block_n = max(16, power_of_2_above(_cdiv(problem.n, device.num_sms)))
    if block_n > 64 or _cdiv(problem.n, block_n) < FULL_WAVE * device.num_sms:
        return Tile(block_m, 64, 128, num_warps=4, num_stages=5, programs_per_sm=2)
    if block_n == 64:  # 16 x 8192 x 8192: 32.9, 34.6 in shares, 35.1 sliced
        return Tile(block_m, 64, 128, num_warps=4, num_stages=_stages(block_m + 64, 128, device), min_steps=WHOLE)
    # 16 x 2112 x 7168: 11.6, 14.2 in shares of 64 features; 12.1 with half of a step
    return _sliced(block_m, block_n, 1024 if block_m + block_n == 32 else 512, device)


def _sliced(block_m: int, block_n: int, block_k: int, device: Device) -> Tile:
    """Whole tiles of few features: eight warps have a slice of every step each."""
    stages = _stages(block_m + block_n, block_k, device) + 1  # one stage of these products lies in registers
    return Tile(block_m, block_n, block_k, num_warps=8, num_stages=stages, slices=8, min_steps=WHOLE)


def _stages(rows: int, block_k: int, device: Device) -> int:
    """As many as shared memory holds, of `rows` rows of x and w together."""
    return (device.shared_memory_bytes - SCRATCH_BYTES) // (rows * block_k * 2)


def _cdiv(dividend: int, divisor: int) -> int:
    return math.ceil(dividend / divisor)
