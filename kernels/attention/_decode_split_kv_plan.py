"""Launch decisions of decode_split_kv: pure functions of a problem's shape and a `Device`, never of lengths."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from ..device import Device
from ..problem import Inputs, Problem
from ._decode_problem import PagedDecode
from ._tree_problem import TreeDecode

COMBINE_VALUES = 8192
"""Partial values that one step of the combination holds: 64 registers for each of its 128 threads."""
COMBINE_PARTS = 512
"""The most partial results that one step of the combination reads: few steps wait for each other."""
WAVES_UNSPLIT = 24
"""Sequences are not split where whole ones fill the device this often: the last wave then idles for 2% on average."""
LONG_PART_TOKENS = 8192
"""From here on the last eighth of the tokens is cut finer, for the programs that are done first."""


@dataclass(frozen=True)
class Tile:
    """The shape of one program of the first kernel: what a search would vary."""

    block_h: int
    """Rows (query, head of the group); at least 16, which tensor cores want."""
    block_n: int
    """Tokens in a tile."""
    num_warps: int
    num_stages: int
    programs_per_sm: int = 1
    min_tokens: int = 128
    """Least tokens in a part: fewer cost more to combine than a further program saves."""
    tail_factor: int = 2
    """Small parts for each large one; see `_decode_split_kv_shares`. 0: all parts are equal."""


@dataclass(frozen=True)
class SplitKVPlan:
    """What both kernels are launched with."""

    problem: PagedDecode
    block_h: int
    block_n: int
    num_warps: int
    num_stages: int
    split: bool
    """False: one program for a whole sequence, and no second kernel."""
    num_parts: int
    """Equal parts that the tiles of all sequences are cut into, for each KV head and block of rows."""
    tail_parts: int
    """Smaller parts, of the last eighth of the tiles, after them."""
    min_tiles: int
    """Least tiles in a part."""
    late_sum: bool
    """Whether the sums of softmax are taken across a tile's tokens at the end only."""
    combine_rows: int
    combine_columns: int
    combine_parts: int
    """Partial results that one step of the combination reads at once."""
    dependent_launch: bool
    """Whether the second kernel may be launched before the first one has ended (NVIDIA, from sm_90)."""
    backend_options: Mapping[str, int] = field(default_factory=dict)
    """Options of one backend only: `waves_per_eu` on AMD."""


def plan(problem: Problem, plan_inputs: Inputs, device: Device) -> SplitKVPlan:
    """Every launch decision, from shapes alone: `plan_inputs` may be meta tensors."""
    assert isinstance(problem, PagedDecode)
    tile = choose_tile(problem, device)
    rows = problem.seq_len_q * problem.group
    columns = problem.num_kv_heads * math.ceil(rows / tile.block_h)  # programs that read the same tokens
    slots = device.num_sms * tile.programs_per_sm
    min_tiles = max(1, tile.min_tokens // tile.block_n)
    most_tiles = problem.batch * math.ceil(problem.max_seq_len / tile.block_n)
    num_parts = min(max(1, slots // columns), math.ceil(most_tiles / min_tiles))
    whole = problem.batch * columns >= WAVES_UNSPLIT * slots or problem.max_seq_len <= tile.min_tokens
    long = most_tiles * tile.block_n >= LONG_PART_TOKENS * num_parts
    tail_parts = tile.tail_factor * num_parts if long and num_parts > 1 else 0
    combine_parts = min(COMBINE_PARTS, max(4, _next_power_of_2(num_parts // problem.batch)))
    combine_columns = min(problem.head_dim, max(16, COMBINE_VALUES // combine_parts))
    return SplitKVPlan(
        problem=problem,
        block_h=tile.block_h,
        block_n=tile.block_n,
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
        split=not whole,
        num_parts=problem.batch if whole else num_parts,
        tail_parts=0 if whole else tail_parts,
        min_tiles=min_tiles,
        late_sum=tile.block_h <= 32,
        combine_rows=max(1, COMBINE_VALUES // (combine_parts * combine_columns)),
        combine_columns=combine_columns,
        combine_parts=combine_parts,
        dependent_launch=device.compute_capability >= 90,
        backend_options={"waves_per_eu": 1} if device.kind == "hip" else {},
    )


def choose_tile(problem: PagedDecode, device: Device) -> Tile:
    """Few rows leave the kernel bound by memory: two programs on an SM, each with one to two tiles on their way.

    Many rows, those of a tree, leave it bound by the tensor cores: 64 rows are what a warpgroup's MMA takes.
    """
    rows = problem.seq_len_q * problem.group
    stages = 4 if problem.is_fp8 else 3  # a tile of bytes is half as long on its way
    if device.kind == "hip":
        return _tile_amd(rows, device)
    if device.kind == "cuda" and device.shared_memory_bytes < 155 * 1024:  # sm_86, sm_89, sm_120
        return Tile(16 if rows <= 16 else 64, 32, num_warps=4, num_stages=3)
    if rows <= 32:
        return Tile(16 if rows <= 16 else 32, 64, num_warps=4, num_stages=stages, programs_per_sm=2)
    if device.compute_capability != 90:
        return Tile(64, 64, num_warps=8, num_stages=3)
    if rows <= 64 or problem.is_fp8:  # the mask of a tree takes registers
        return Tile(64, 32 if isinstance(problem, TreeDecode) else 64, num_warps=4, num_stages=3, programs_per_sm=2)
    return Tile(128, 64, num_warps=8, num_stages=3)


def _tile_amd(rows: int, device: Device) -> Tile:
    """A tile of K and one of V lie in LDS: 64 KB on gfx942, 160 KB on gfx950."""
    if device.warp_size == 32:  # RDNA: half the registers for a warp
        return Tile(16, 32, num_warps=4, num_stages=2, programs_per_sm=2)
    has_large_lds = device.shared_memory_bytes > 64 * 1024
    block_n = 64 if has_large_lds else 32
    if rows <= 16:
        return Tile(16, block_n, num_warps=4, num_stages=2, programs_per_sm=2 if has_large_lds else 3)
    return Tile(32 if rows <= 32 else 64, block_n, num_warps=4, num_stages=2)


def _next_power_of_2(n: int) -> int:
    return 1 << max(0, n - 1).bit_length()
