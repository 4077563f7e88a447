"""Launch decisions of triton_experts: pure functions of a problem's shape and a `Device`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from ..device import Device
from ..problem import Inputs, Problem
from .problem import BLOCK, MoEGroupedGEMM, MoELayer

ROWS_MARGIN = 1.3
"""Rows of a tile over the mean of an expert: with random routing most experts then fit into one tile."""
MIN_PART_COLUMNS = 1024
"""Least columns in a part of a split product: fewer cost more to combine than a further program saves."""
PROGRAMS_PER_SM = 6
"""Programs for each SM that a split aims at: several run at once, and the last ones should be few."""


MIN_PROGRAMS_PER_SM = 4
"""Where tiles of 64 columns would make fewer, they have 32."""
HOPPER_UNITS = 0
"""`HopperTiles.units` on sm_90; 0, until a measurement on the H200: tiles of Triton."""
HOPPER_STAGES = 4
HOPPER_MIN_ROWS = 64
"""Least rows of a tile, from `_rows_of_a_tile`, that warpgroups of 64 rows are for."""


@dataclass(frozen=True)
class Tile:
    """The shape of one program of a grouped product."""

    block_m: int
    """Rows (a token and its choice)."""
    block_n: int
    """Columns: rows of one weight matrix."""
    block_k: int
    num_warps: int
    num_stages: int
    group_m: int = 8
    """Tiles of rows that share the columns which they are on."""
    swap: bool = False
    """Whether weights are multiplied by tokens, and not tokens by weights."""
    use_tma: bool = False
    """Whether weights are loaded through descriptors (Hopper and later)."""


@dataclass(frozen=True)
class HopperTiles:
    """How `_grouped_hopper` is launched."""

    programs: int
    """Persistent ones: as many as SMs."""
    units: int = 3
    """Consumers, each with 64 rows of a tile: 2 or 3."""
    stages: int = 3
    """Steps of 64 columns in shared memory at once."""

    @property
    def block_m(self) -> int:
        """Rows of a tile."""
        return 64 * self.units

    @property
    def consumer_registers(self) -> int:
        """Of a thread: the producer's warpgroup has 24, and all have 512 together with three consumers, else 504."""
        return 160 if self.units == 3 else 240


@dataclass(frozen=True)
class ExpertsPlan:
    """What all kernels are launched with."""

    problem: MoEGroupedGEMM | MoELayer
    gate_up: Tile
    down: Tile
    split_k: int
    """Parts that the second product's columns are cut into; each is written by itself."""
    direct: bool
    """One token: its slots are the rows, and nothing is sorted."""
    stream: bool
    """Whether weights are read once, by one program each."""
    combine_tokens: int
    combine_columns: int
    dependent_launch: bool
    """Whether a kernel may be launched before the one ahead of it has ended (NVIDIA, from sm_90)."""
    backend_options: Mapping[str, int] = field(default_factory=dict)
    """Options of one backend only: `waves_per_eu` on AMD."""
    hopper: HopperTiles | None = None
    """Both products by warpgroups with TMA, over rows that are copied together; not in Triton's interpreter."""


def plan(problem: Problem, plan_inputs: Inputs, device: Device) -> ExpertsPlan:
    """Every launch decision, from shapes alone."""
    assert isinstance(problem, MoEGroupedGEMM | MoELayer)
    rows_per_expert = problem.tokens * problem.top_k / problem.num_experts
    slots = problem.slots if isinstance(problem, MoELayer) else problem.top_k
    if isinstance(problem, MoELayer) and problem.shared_experts:
        rows_per_expert = max(rows_per_expert, min(problem.tokens, 2 * rows_per_expert))
    block_m = _rows_of_a_tile(rows_per_expert)
    used = min(problem.stored_experts, problem.tokens * slots)
    enough = MIN_PROGRAMS_PER_SM * device.num_sms / used  # programs of one expert
    narrow = (problem.intermediate_size / 64 < enough, problem.hidden_size / 64 < enough)
    gate_up, down = _tiles(block_m, problem.is_fp8, device, narrow)
    direct = isinstance(problem, MoELayer) and problem.tokens == 1
    programs = max(1, used * math.ceil(problem.hidden_size / down.block_n))
    split_k = 1
    while (
        block_m <= 16
        and 2 * split_k * programs <= PROGRAMS_PER_SM * device.num_sms
        and problem.intermediate_size >= 2 * split_k * MIN_PART_COLUMNS
    ):
        split_k *= 2
    return ExpertsPlan(
        problem=problem,
        gate_up=gate_up,
        down=down,
        split_k=split_k,
        direct=direct,
        stream=block_m <= 16,
        combine_tokens=64 if device.kind == "cpu" else 1,
        combine_columns=256 if problem.tokens <= 128 else 1024,
        dependent_launch=device.compute_capability >= 90,
        backend_options={"waves_per_eu": 2} if device.kind == "hip" and block_m <= 32 else {},
        hopper=_hopper(problem, block_m, device),
    )


def _hopper(problem: MoEGroupedGEMM | MoELayer, block_m: int, device: Device) -> HopperTiles | None:
    """None where the device, the type or rows that TMA cannot address forbid it, or rows are few."""
    aligned = problem.hidden_size % 8 == 0 and problem.intermediate_size % 8 == 0
    if device.arch != "sm_90" or problem.is_fp8 or not aligned or not HOPPER_UNITS or block_m < HOPPER_MIN_ROWS:
        return None
    return HopperTiles(device.num_sms, HOPPER_UNITS, HOPPER_STAGES)


def _rows_of_a_tile(rows_per_expert: float) -> int:
    wanted = rows_per_expert * ROWS_MARGIN
    return next((block for block in (16, 32, 64) if wanted <= block), 128)


def _tiles(block_m: int, is_fp8: bool, device: Device, narrow: tuple[bool, bool]) -> tuple[Tile, Tile]:
    """(first product, second product); of the first one, two matrices are held at once. `narrow`: 32 columns."""
    if device.kind == "cpu":  # Triton's interpreter wants few programs; its tiles may have any size
        columns = BLOCK if is_fp8 else 256
        return Tile(block_m, columns, BLOCK, 4, 1), Tile(block_m, columns, BLOCK, 4, 1)
    if device.kind == "hip":
        return _tiles_amd(block_m, is_fp8, device)
    if is_fp8:
        return _tiles_fp8(block_m, device)
    is_hopper = device.arch == "sm_90"
    has_room = device.shared_memory_bytes >= 160 * 1024
    if block_m <= 32:
        stages = 4 if has_room else 3
        first_columns, second_columns = (32 if is_narrow else 64 for is_narrow in narrow)
        first_stages = stages if narrow[0] else 3  # two programs fit on an SM
        return (
            Tile(block_m, first_columns, 128, num_warps=4, num_stages=first_stages, swap=is_hopper),
            Tile(block_m, second_columns, 128, num_warps=4, num_stages=stages, swap=is_hopper),
        )
    if not has_room:  # sm_86, sm_89, sm_120
        return Tile(64, 64, 32, 4, 3), Tile(64, 64, 64, 4, 3)
    if block_m == 64:
        return Tile(64, 64, 64, 4, 4, swap=is_hopper), Tile(64, 128, 64, 4, 4, swap=is_hopper)
    use_tma = device.compute_capability >= 90
    second = Tile(128, 256 if is_hopper else 128, 64, 8, 4, use_tma=use_tma)
    return Tile(128, 128 if use_tma else 64, 64, 8, 4, use_tma=use_tma), second  # sm_80 spills with 128


def _tiles_fp8(block_m: int, device: Device) -> tuple[Tile, Tile]:
    """A step is one block of 128 columns, and the first product's tile one block of h, which is quantised there."""
    stages = 3 if device.shared_memory_bytes >= 160 * 1024 else 2
    swap = device.arch == "sm_90" and block_m <= 64
    block_m = min(block_m, 64)
    first = Tile(block_m, BLOCK, BLOCK, num_warps=8 if block_m == 64 else 4, num_stages=stages, swap=swap)
    return first, Tile(block_m, 64 if block_m <= 32 else BLOCK, BLOCK, num_warps=4, num_stages=stages + 1, swap=swap)


def _tiles_amd(block_m: int, is_fp8: bool, device: Device) -> tuple[Tile, Tile]:
    """64 KiB of LDS hold one step of two matrices; the other is in registers."""
    if device.warp_size == 32:  # RDNA: half the registers for a warp
        block_m = min(block_m, 32)
        return Tile(block_m, BLOCK if is_fp8 else 32, BLOCK if is_fp8 else 64, 8, 2), Tile(
            block_m, 64, BLOCK if is_fp8 else 64, 4, 2
        )
    if is_fp8:
        block_m = min(block_m, 64)
        return Tile(block_m, BLOCK, BLOCK, 4 if block_m <= 32 else 8, 2), Tile(block_m, 64, BLOCK, 4, 2)
    if block_m <= 32:
        return Tile(block_m, 32, 128, 4, 2), Tile(block_m, 32, 128, 4, 2)
    return Tile(block_m, 64, 64, 4 if block_m == 64 else 8, 2), Tile(block_m, 128, 64, 4 if block_m == 64 else 8, 2)
