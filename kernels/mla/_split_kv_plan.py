"""Launch decisions of triton_split_kv: pure functions of a problem's shape and a `Device`, never of lengths."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ..device import Device
from ..problem import Inputs, Problem
from ._dims import KV_LORA_RANK
from .problem import MLADecode

COMBINE_VALUES = 8192
"""Partial values that one step of the combination holds: 64 registers for each of its 128 threads."""
TOKENS_OF_A_PROGRAM = 1024
"""From so many for each SM on, 16 rows go through Hopper's kernel too, though it computes 64: memory is the limit, of
which it reaches 88% with 32 heads on an H200, where the tile of 16 rows reached 82% with 16 heads. With 16 heads it
has not been timed."""


@dataclass(frozen=True)
class Tile:
    """The shape of one program of the first kernel, and all else that is chosen rather than derived."""

    block_h: int
    """Rows (query, head)."""
    block_n: int
    """Tokens in a tile."""
    num_warps: int
    num_stages: int
    programs_per_sm: int = 1
    min_tokens: int = 128
    """Least tokens in a part: fewer cost more to combine than a further program saves."""
    hopper: bool = False
    """Whether it is the kernel in `_split_kv_hopper`."""
    combine_values: int = COMBINE_VALUES
    """As the constant of that name."""
    dependent_launch: bool = False
    """As `SplitKVPlan.dependent_launch`."""
    waves_per_eu: int = 0
    """AMD: waves that share a SIMD's registers; 0 leaves it to the compiler."""
    matrix_instr_nonkdim: int = 0
    """AMD: rows of the matrix instruction; 0 leaves it to the compiler."""
    kpack: int = 1
    """AMD: vectors of K that a thread has beside each other, for one wide read from LDS."""


@dataclass(frozen=True)
class SplitKVPlan:
    """What both kernels are launched with."""

    softmax_scale: float
    block_h: int
    block_n: int
    num_warps: int
    num_stages: int
    hopper: bool
    num_parts: int
    """Equal parts that the tiles of all sequences are cut into."""
    min_tiles: int
    """Least tiles in a part."""
    combine_rows: int
    combine_columns: int
    combine_parts: int
    """Partial results that one step of the combination reads at once."""
    dependent_launch: bool
    """Whether the second kernel may be launched before the first one has ended (NVIDIA, from sm_90)."""
    backend_options: Mapping[str, int] = field(default_factory=dict)
    """Options of one backend only: on AMD `waves_per_eu`, `matrix_instr_nonkdim`, `kpack`."""


def plan(problem: Problem, plan_inputs: Inputs, device: Device) -> SplitKVPlan:
    """Every launch decision, from shapes alone: `plan_inputs` may be meta tensors."""
    assert isinstance(problem, MLADecode)
    return plan_from(problem, choice_for(problem, device), device)


def plan_from(problem: MLADecode, tile: Tile, device: Device) -> SplitKVPlan:
    """What follows from a choice."""
    row_blocks = math.ceil(problem.seq_len_q * problem.num_heads / tile.block_h)
    min_tiles = max(1, tile.min_tokens // tile.block_n)
    most_tiles = problem.batch * math.ceil(problem.max_seq_len / tile.block_n)
    num_parts = max(1, device.num_sms * tile.programs_per_sm // row_blocks)
    num_parts = min(num_parts, math.ceil(most_tiles / min_tiles))
    combine_parts = min(128, max(4, _next_power_of_2(num_parts // problem.batch)))
    combine_columns = min(KV_LORA_RANK, tile.combine_values // combine_parts)
    return SplitKVPlan(
        softmax_scale=problem.softmax_scale,
        block_h=tile.block_h,
        block_n=tile.block_n,
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
        hopper=tile.hopper,
        num_parts=num_parts,
        min_tiles=min_tiles,
        combine_rows=tile.combine_values // (combine_parts * combine_columns),
        combine_columns=combine_columns,
        combine_parts=combine_parts,
        dependent_launch=tile.dependent_launch,
        backend_options={
            "waves_per_eu": tile.waves_per_eu,
            "matrix_instr_nonkdim": tile.matrix_instr_nonkdim,
            "kpack": tile.kpack,
        }
        if device.kind == "hip"
        else {},
    )


def facts(problem: MLADecode) -> dict[str, int | bool]:
    """What a table of choices tells problems apart by."""
    return {
        "is_fp8": problem.kv_dtype != problem.dtype,
        "rows": problem.seq_len_q * problem.num_heads,
        "tokens": problem.batch * problem.max_seq_len,
    }


def choice_for(problem: MLADecode, device: Device) -> Tile:
    """What was chosen by hand."""
    if device.kind == "hip":
        return replace(_tile(problem, device), waves_per_eu=1)
    return replace(_tile(problem, device), dependent_launch=device.compute_capability >= 90)


def _tile(problem: MLADecode, device: Device) -> Tile:
    """H200 (sm_90): the fastest of the tiles listed in triton_split_kv.py; other NVIDIA GPUs: what fits, not timed."""
    rows = problem.seq_len_q * problem.num_heads
    is_fp8 = problem.kv_dtype != problem.dtype
    if device.kind == "hip":
        return _tile_amd(rows, is_fp8, device)
    if device.kind == "cuda" and device.shared_memory_bytes < 155 * 1024:  # sm_86, sm_89, sm_120
        return Tile(16, 32, num_warps=4, num_stages=2 if is_fp8 else 3)
    is_long = problem.batch * problem.max_seq_len >= device.num_sms * TOKENS_OF_A_PROGRAM
    is_hopper = device.arch == "sm_90" and not is_fp8
    if rows <= 16 and not (is_hopper and is_long):
        return Tile(16, 32, num_warps=4, num_stages=2 if is_fp8 else 3, programs_per_sm=2, min_tokens=256)
    if is_hopper:
        return Tile(64, 64, num_warps=4, num_stages=2, hopper=True)
    if is_fp8:  # converted tiles are in registers too: 64 x 64 spill 104 to 146 of them, 32 x 32 with 4 warps 86
        return Tile(32, 64 if rows > 32 and device.arch == "sm_90" else 32, num_warps=8, num_stages=2)
    if rows <= 32:
        return Tile(32, 32, num_warps=4, num_stages=2, programs_per_sm=2)
    return Tile(64, 64, num_warps=8, num_stages=2)


def _tile_amd(rows: int, is_fp8: bool, device: Device) -> Tile:
    """The largest tiles whose compiled code spills no vector register; not timed."""
    if device.warp_size == 32:  # RDNA: half the registers for a warp
        return Tile(16, 16, num_warps=8, num_stages=2)
    block_h = 16 if rows <= 16 else 32 if rows <= 32 else 64
    has_large_lds = device.shared_memory_bytes > 64 * 1024
    block_n = 32 if has_large_lds and not (is_fp8 and block_h == 64) else 16
    return Tile(block_h, block_n, num_warps=4, num_stages=2)


def _next_power_of_2(n: int) -> int:
    return 1 << max(0, n - 1).bit_length()
