"""What launches of triton_experts are chosen by: the choices, and those that were made by hand."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..device import Device
from .problem import BLOCK, MoEGroupedGEMM, MoELayer

ROWS_MARGIN = 1.3
"""Rows of a tile over the mean of an expert: with random routing most experts then fit into one tile."""
MIN_PART_COLUMNS = 1024
"""Least columns in a part of a split product: fewer cost more to combine than a further program saves."""
STEP_BYTES_PER_SM = 32 * 1024
"""Weights in the steps that programs of the second product have on an SM at once: two of 64 columns in 16 bits, four
of 32. A split makes no more than run at once. H200, tuning, a token of Mixtral in tiles of 32 columns: 182.2 us with
two parts, which all run at once, against 194.0 us with four and 232.3 us with one (all with a prefetch of w2, since
dropped, that by itself gave 2.4 us)."""
MIN_PROGRAMS_PER_SM = 1.5
"""Where tiles of 64 columns would make fewer, they have 32. H200, tuning, a token of Mixtral: 166.0 us with 64 columns
(1.9 programs of the second product), against 182.2 us with 32, both with the prefetch."""
HOPPER_MIN_ROWS = 64
"""Least rows of a tile, from `_rows_of_a_tile`, that warpgroups of 64 rows are for. H200, tuning, against tiles of
Triton: 2510 us for 2655 us with 512 rows an expert (Mixtral), 1490 us for 1562 us with 128 (Qwen3).
Between 25 and 98 rows an expert neither was measured."""


@dataclass(frozen=True)
class Choice:
    """All that is chosen rather than derived. `first`: the product with gate and up; `second`: the one with w2."""

    block_m: int
    """Rows of a tile (a token and its choice)."""
    first_columns: int
    """Columns of a tile: rows of one weight matrix."""
    first_k: int
    first_warps: int
    first_stages: int
    second_columns: int
    second_k: int
    second_warps: int
    second_stages: int
    group_m: int = 8
    """Tiles of rows that share the columns which they are on."""
    swap: bool = False
    """Whether weights are multiplied by tokens, and not tokens by weights."""
    use_tma: bool = False
    """Whether weights are loaded through descriptors (Hopper and later)."""
    split_k: int = 1
    """Parts that the second product's columns are cut into; each is written by itself."""
    stream: bool = False
    """Whether weights are read once, by one program each."""
    combine_columns: int = 1024
    dependent_launch: bool = False
    """Whether a kernel may be launched before the one ahead of it has ended (NVIDIA, from sm_90)."""
    hopper: bool = False
    """Whether both products are those in `_grouped_hopper`, over rows that are copied together."""
    hopper_wide: bool = False
    """Whether two consumers there have one accumulator each, and not three of them two."""
    hopper_dependent_launch: bool = False
    """As `dependent_launch`, for what only those products need."""
    waves_per_eu: int = 0
    """AMD: waves that share a SIMD's registers; 0 leaves it to the compiler."""
    matrix_instr_nonkdim: int = 0
    """AMD: rows of the matrix instruction; 0 leaves it to the compiler."""
    kpack: int = 1
    """AMD: vectors of K that a thread has beside each other, for one wide read from LDS."""


@dataclass(frozen=True)
class _Tile:
    """Of one product."""

    block_m: int
    block_n: int
    block_k: int
    num_warps: int
    num_stages: int
    swap: bool = False
    use_tma: bool = False


def facts(problem: MoEGroupedGEMM | MoELayer) -> dict[str, int | bool]:
    """What a table of choices tells problems apart by."""
    return {
        "is_fp8": problem.is_fp8,
        "rows_of_64_experts": 64 * problem.tokens * problem.top_k // problem.num_experts,
        "columns": problem.intermediate_size,
    }


def choice_for(problem: MoEGroupedGEMM | MoELayer, device: Device) -> Choice:
    """What was chosen by hand."""
    rows_per_expert = problem.tokens * problem.top_k / problem.num_experts
    slots = problem.slots if isinstance(problem, MoELayer) else problem.top_k
    if isinstance(problem, MoELayer) and problem.shared_experts:
        rows_per_expert = max(rows_per_expert, min(problem.tokens, 2 * rows_per_expert))
    block_m = _rows_of_a_tile(rows_per_expert)
    used = min(problem.stored_experts, problem.tokens * slots)
    enough = MIN_PROGRAMS_PER_SM * device.num_sms * 64 / used  # columns of one expert
    parts = _parts(problem, block_m, used, 64, device)
    narrow = (problem.intermediate_size < enough, problem.hidden_size * parts < enough)
    first, second = _tiles(block_m, problem, device, narrow)
    return Choice(
        block_m=first.block_m,
        first_columns=first.block_n,
        first_k=first.block_k,
        first_warps=first.num_warps,
        first_stages=first.num_stages,
        second_columns=second.block_n,
        second_k=second.block_k,
        second_warps=second.num_warps,
        second_stages=second.num_stages,
        swap=first.swap,
        use_tma=first.use_tma,
        split_k=_parts(problem, block_m, used, second.block_n, device),
        stream=block_m <= 16,
        combine_columns=256 if problem.tokens <= 128 else 1024,
        dependent_launch=device.compute_capability >= 90,
        hopper=device.arch == "sm_90" and fits_hopper(problem) and block_m >= HOPPER_MIN_ROWS,
        waves_per_eu=2 if device.kind == "hip" and block_m <= 32 else 0,
    )


def suits_tma(problem: MoEGroupedGEMM | MoELayer) -> bool:
    """Whether rows of 16-bit values begin at multiples of 16 bytes."""
    return problem.hidden_size % 8 == 0 and problem.intermediate_size % 8 == 0


def fits_hopper(problem: MoEGroupedGEMM | MoELayer) -> bool:
    """Whether the type and the addresses are those of `_grouped_hopper`, and rows are sorted."""
    return not problem.is_fp8 and suits_tma(problem) and problem.tokens > 1


def _parts(problem: MoEGroupedGEMM | MoELayer, block_m: int, used_experts: int, block_n: int, device: Device) -> int:
    """Parts of the second product's columns, with tiles of `block_n` rows of w2: all of them run at once."""
    step_bytes = block_n * BLOCK * (1 if problem.is_fp8 else 2)
    programs = used_experts * math.ceil(problem.hidden_size / block_n)
    parts = 1
    while (
        block_m <= 16
        and 2 * parts * programs * step_bytes <= STEP_BYTES_PER_SM * device.num_sms
        and problem.intermediate_size >= 2 * parts * MIN_PART_COLUMNS
    ):
        parts *= 2
    return parts


def _rows_of_a_tile(rows_per_expert: float) -> int:
    wanted = rows_per_expert * ROWS_MARGIN
    return next((block for block in (16, 32, 64) if wanted <= block), 128)


def _tiles(
    block_m: int, problem: MoEGroupedGEMM | MoELayer, device: Device, narrow: tuple[bool, bool]
) -> tuple[_Tile, _Tile]:
    """(first product, second product); of the first one, two matrices are held at once. `narrow`: 32 columns."""
    if device.kind == "cpu":  # Triton's interpreter wants few programs; its tiles may have any size
        columns = BLOCK if problem.is_fp8 else 256
        return _Tile(block_m, columns, BLOCK, 4, 1), _Tile(block_m, columns, BLOCK, 4, 1)
    if device.kind == "hip":
        return _tiles_amd(block_m, problem.is_fp8, device)
    if problem.is_fp8:
        return _tiles_fp8(block_m, device)
    has_room = device.shared_memory_bytes >= 160 * 1024
    if block_m <= 32:
        swap = device.arch == "sm_90"
        stages = 4 if has_room else 3
        first_columns, second_columns = (32 if is_narrow else 64 for is_narrow in narrow)
        first_stages = stages if narrow[0] else 3  # two programs fit on an SM
        return (
            _Tile(block_m, first_columns, 128, num_warps=4, num_stages=first_stages, swap=swap),
            _Tile(block_m, second_columns, 128, num_warps=4, num_stages=stages, swap=swap),
        )
    if not has_room:  # sm_86, sm_89, sm_120
        return _Tile(64, 64, 32, 4, 3), _Tile(64, 64, 64, 4, 3)
    if block_m == 64:
        return _Tile(64, 64, 64, 4, 4), _Tile(64, 128, 64, 4, 4)
    use_tma = device.compute_capability >= 90 and suits_tma(problem)
    second = _Tile(128, 128, 64, 8, 4, use_tma=use_tma)
    return _Tile(128, 128 if use_tma else 64, 64, 8, 4, use_tma=use_tma), second  # sm_80 spills with 128


def _tiles_fp8(block_m: int, device: Device) -> tuple[_Tile, _Tile]:
    """A step is one block of 128 columns, and the first product's tile one block of h, which is quantised there."""
    stages = 3 if device.shared_memory_bytes >= 160 * 1024 else 2
    swap = device.arch == "sm_90" and block_m <= 64
    block_m = min(block_m, 64)
    first = _Tile(block_m, BLOCK, BLOCK, num_warps=8 if block_m == 64 else 4, num_stages=stages, swap=swap)
    return first, _Tile(block_m, 64 if block_m <= 32 else BLOCK, BLOCK, num_warps=4, num_stages=stages + 1, swap=swap)


def _tiles_amd(block_m: int, is_fp8: bool, device: Device) -> tuple[_Tile, _Tile]:
    """64 KiB of LDS hold one step of two matrices; the other is in registers."""
    if device.warp_size == 32:  # RDNA: half the registers for a warp
        block_m = min(block_m, 32)
        return _Tile(block_m, BLOCK if is_fp8 else 32, BLOCK if is_fp8 else 64, 8, 2), _Tile(
            block_m, 64, BLOCK if is_fp8 else 64, 4, 2
        )
    if is_fp8:
        block_m = min(block_m, 64)
        return _Tile(block_m, BLOCK, BLOCK, 4 if block_m <= 32 else 8, 2), _Tile(block_m, 64, BLOCK, 4, 2)
    if block_m <= 32:
        return _Tile(block_m, 32, 128, 4, 2), _Tile(block_m, 32, 128, 4, 2)
    return _Tile(block_m, 64, 64, 4 if block_m == 64 else 8, 2), _Tile(block_m, 128, 64, 4 if block_m == 64 else 8, 2)
