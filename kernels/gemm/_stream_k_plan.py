"""Launch decisions of the stream-K kernels: pure functions of a problem's shape and a `Device`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..device import Device
from .problem import Linear, LinearFP8, LinearMX

WHOLE = 1 << 30
"""`min_steps` of tiles that are not split."""
ADDED_VALUES = 32
"""Partial values that a thread holds at once while it adds: one trip to the cache for all of them."""
IDLE = 1.05
"""How much longer than an equal share one may be that begins and ends with a tile's parts."""
TAIL = 0.8
"""Least share of the slots that several waves of whole tiles must keep busy, where shares would save `SAVED_STEPS`."""
SAVED_STEPS = 16
"""Least K steps that shares must end earlier than whole tiles, in several waves or if a second kernel adds the sums."""
IN_KERNEL_BYTES = 128 << 10
"""Most bytes of partial sums of a tile that one program adds; for more a second kernel, on all SMs, is faster."""
ARRIVAL_BYTES = 512 << 10
"""As `IN_KERNEL_BYTES`, where a search chose `arrival` for another problem."""
TMA_ALIGNED = 16
"""Elements: a descriptor's rows begin at multiples of 16 bytes, and no element is smaller than one."""


@dataclass(frozen=True)
class Tile:
    """The shape of one program. All that a search may vary is here."""

    block_m: int
    """Tokens."""
    block_n: int
    """Features."""
    block_k: int
    num_warps: int
    num_stages: int
    programs_per_sm: int = 1
    min_steps: int = 2
    """Least K steps in a share: fewer cost more to add than a further program saves."""
    group_m: int = 8
    """Blocks of tokens that go through all features together, so that w is read from the cache."""
    slices: int = 1
    """Slices of a step that warps multiply each by itself, where a tile is too small for all of them."""
    combine: str = "by_size"
    """Who adds a tile's partial sums: the last share at its `arrival`, a `second` kernel, or all `together` once all
    have arrived; `by_size` is `arrival` for few and `second` for many."""
    tma: bool = False
    """Whether tiles of x and w are loaded by tensor descriptors, where K allows it (NVIDIA, from sm_90)."""
    token_rows: bool = False
    """Whether tokens are the rows of the matrix instructions, and not the features."""
    w_eviction: str = ""
    """The cache's eviction policy for w, where it is loaded by pointers."""
    unroll: int = 1
    """Steps of fp8 tiles whose scales are loaded together, one turn of the loop ahead: 1, 2 or 4."""
    unpack: str = "arithmetic"
    """How microscaled weights become numbers: `arithmetic` in registers, `paired` two at once (NVIDIA), or `scaled` by
    `tl.dot_scaled`."""
    wide: bool = False
    """Whether microscaled weights are loaded 16 bytes at once."""
    deals_x: bool = False
    """Whether x is loaded in order, and put into the order of `paired` weights in registers; else by its loads."""
    waves_per_eu: int = 0
    """AMD: waves that share a SIMD's registers; 0 leaves it to the compiler."""
    matrix_instr_nonkdim: int = 0
    """AMD: rows of the matrix instruction; 0 leaves it to the compiler."""
    kpack: int = 1
    """AMD: vectors of K that a thread has beside each other, for one wide read from LDS."""


@dataclass(frozen=True)
class StreamKPlan:
    """What the kernels are launched with."""

    out_dtype: str
    block_m: int
    block_n: int
    block_k: int
    num_warps: int
    num_stages: int
    group_m: int
    slices: int
    tma: bool
    token_rows: bool
    w_eviction: str
    unroll: int
    unpack: str
    wide: bool
    deals_x: bool
    num_tiles: int
    steps: int
    """K steps of a tile."""
    per_program: int
    """K steps of a share."""
    num_programs: int
    combine: str
    """As `Tile.combine`, but never `by_size`."""
    parts: int
    """Partial tiles that are added at once."""
    combine_rows: int
    """Rows of a tile that one program adds."""
    dependent_launch: bool
    """Whether the second kernel may be launched before the first one has ended (NVIDIA, from sm_90)."""
    backend_options: Mapping[str, int] = field(default_factory=dict)
    """Options of one backend only: on AMD `waves_per_eu`, `matrix_instr_nonkdim`, `kpack`."""
    counters: dict[str, Any] = field(default_factory=dict, compare=False)
    """Tensors [num_tiles] int32 by device: between two calls 0, or of `together` a multiple of `_stream_k.CALL`.
    Calls of one plan must not run side by side."""

    @property
    def is_split(self) -> bool:
        """Whether a tile may have more than one share."""
        return self.per_program % self.steps != 0

    @property
    def is_dependent(self) -> bool:
        """Whether a second kernel follows that may be launched before the first one has ended."""
        return self.dependent_launch and self.is_split and self.combine == "second"

    @property
    def parts_shape(self) -> tuple[int, int, int, int]:
        """Of the partial sums: two slots for each program."""
        return self.num_programs, 2, self.block_m, self.block_n


def stream_k(problem: Linear | LinearFP8 | LinearMX, tile: Tile, device: Device) -> StreamKPlan:
    """Equal shares for all programs that are resident at once; whole tiles where these are many."""
    m, n, k = problem.m, problem.n, problem.k
    tiles_m = math.ceil(m / tile.block_m)
    tiles, steps = tiles_m * math.ceil(n / tile.block_n), math.ceil(k / tile.block_k)
    slots = device.num_sms * tile.programs_per_sm
    per_program = _share(tiles, steps, slots, tile.min_steps)
    combine, most_parts = _combine_of(tile, steps, per_program, tiles, device)
    if combine == "second" and 0 < steps - per_program < SAVED_STEPS:
        per_program = steps
        combine, most_parts = _combine_of(tile, steps, per_program, tiles, device)
    programs = math.ceil(tiles * steps / per_program)
    threads = (4 if combine == "second" else tile.num_warps) * device.warp_size
    rows = tile.block_m
    if combine == "second":
        rows = max(1, min(tile.block_m, 512 // tile.block_n))
    elif combine == "together":
        rows = max(1, tile.block_m // power_of_2_below(most_parts))
    held = ADDED_VALUES * max(threads, 32) // (rows * tile.block_n)
    parts = max(1, min(power_of_2_above(most_parts), power_of_2_below(held)))
    return StreamKPlan(
        out_dtype=problem.out_dtype,
        block_m=tile.block_m,
        block_n=tile.block_n,
        block_k=tile.block_k,
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
        group_m=min(tile.group_m, tiles_m),
        slices=tile.slices,
        tma=tile.tma and k % TMA_ALIGNED == 0,
        token_rows=tile.token_rows,
        w_eviction=tile.w_eviction,
        unroll=tile.unroll,
        unpack=tile.unpack,
        wide=tile.wide,
        deals_x=tile.deals_x,
        num_tiles=tiles,
        steps=steps,
        per_program=per_program,
        num_programs=programs,
        combine=combine,
        parts=parts,
        combine_rows=rows,
        dependent_launch=device.compute_capability >= 90,
        backend_options={
            "waves_per_eu": tile.waves_per_eu,
            "matrix_instr_nonkdim": tile.matrix_instr_nonkdim,
            "kpack": tile.kpack,
        }
        if device.kind == "hip"
        else {},
    )


def _combine_of(tile: Tile, steps: int, per_program: int, tiles: int, device: Device) -> tuple[str, int]:
    """(who adds, the most shares of a tile). Only shares that all run at once, and of which every tile has the same
    number, wait for each other."""
    most_parts = math.ceil(steps / per_program) + (steps % per_program != 0)
    tile_bytes = most_parts * tile.block_m * tile.block_n * 4
    is_even = per_program < steps and steps % per_program == 0
    can_wait = is_even and tiles * steps // per_program <= device.num_sms
    if tile.combine == "by_size" or (tile.combine == "together" and not can_wait):
        return ("arrival" if tile_bytes <= IN_KERNEL_BYTES else "second"), most_parts
    if tile.combine == "arrival" and tile_bytes > ARRIVAL_BYTES:
        return "second", most_parts
    return tile.combine, most_parts


def _share(tiles: int, steps: int, slots: int, min_steps: int) -> int:
    """K steps of a share: whole tiles or whole parts of tiles where that leaves few programs idle."""
    waves = tiles / slots
    if waves > 4 or waves / math.ceil(waves) > 0.9 or steps <= min_steps:
        return steps
    equal = max(math.ceil(tiles * steps / slots), min_steps)
    if waves > 1:
        saved = math.ceil(waves) * steps - equal
        return equal if waves / math.ceil(waves) < TAIL and saved >= SAVED_STEPS else steps
    even = math.ceil(steps / (steps // equal))
    return even if even <= IDLE * equal else equal


def power_of_2_above(number: int) -> int:
    """The least power of two that is not smaller."""
    return 1 << max(0, number - 1).bit_length()


def power_of_2_below(number: int) -> int:
    """The largest power of two that is not larger; 1 for numbers below."""
    return 1 << (max(1, number).bit_length() - 1)
