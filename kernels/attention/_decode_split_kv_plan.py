"""Launch decisions of decode_split_kv: pure functions of a problem and a `Device`.

Lengths are not read, only how they are distributed: a captured graph replays with others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ..device import Device
from ..problem import Inputs, Problem
from .problem import PagedDecode, TreeDecode

COMBINE_VALUES = 8192
"""Partial values that one step of the combination holds: 64 registers for each of its 128 threads."""
COMBINE_PARTS = 512
"""The most partial results that one step of the combination reads: few steps wait for each other."""
WAVES_UNSPLIT = 24
"""Sequences are not split where whole ones fill the device this often: the last wave then idles for 2% on average."""
FULL_WAVES = 0.95
"""Nor are sequences of equal lengths, more than a wave of them, that fill this share of their waves. H200, tuning, 64
sequences of 8192 tokens, 8 KV heads, 97% of two waves: 474 us, split into equal parts 494."""
SHORT_SHARE_TOKENS = 1024
"""Tokens for each program of two an SM: below it other tiles than the many small ones pay."""
LONG_SHARE_TOKENS = 4096
"""And from here on, too."""
WIDE_TILE_TOKENS = 32
"""The most tokens in a tile of heads above 128: with 64 of them and of rows, shared memory or registers overflow."""
ENOUGH_OF_DEVICE = 0.9
"""Parts that fill less of the device at once are made smaller, until they fill their waves so far."""
MOST_WAVES = 8
LEAST_TOKENS_OF_WAVE = 512
"""Of a part that is made smaller for it: what a further wave costs is to be little beside its work."""


@dataclass(frozen=True)
class Tile:
    """The shape of one program of the first kernel, and all else that is chosen rather than derived."""

    block_h: int
    """Rows (query, head of the group); at least 16, which tensor cores want."""
    block_n: int
    """Tokens in a tile."""
    num_warps: int
    num_stages: int
    programs_per_sm: int = 1
    min_tokens: int = 128
    """Least tokens in a part: fewer cost more to combine than a further program saves."""
    whole: bool = True
    """Whether sequences of equal lengths are not split where whole ones fill the device: see FULL_WAVES."""
    late_sum: bool = False
    """As `SplitKVPlan.late_sum`."""
    peel: bool = False
    """As `SplitKVPlan.peel`."""
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

    problem: PagedDecode
    block_h: int
    block_n: int
    num_warps: int
    num_stages: int
    split: bool
    """False: one program for a whole sequence, and no second kernel."""
    num_parts: int
    """Equal parts that the tiles of all sequences are cut into, for each KV head and block of rows."""
    min_tiles: int
    """Least tiles in a part."""
    late_sum: bool
    """Whether the sums of softmax are taken across a tile's tokens at the end only."""
    peel: bool
    """Whether tiles that every row sees whole have a loop without a mask, as those of a tree always do."""
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
    assert isinstance(problem, PagedDecode)
    return plan_from(problem, choice_for(problem, device), device)


def plan_from(problem: PagedDecode, tile: Tile, device: Device) -> SplitKVPlan:
    """What follows from a choice."""
    slots, columns = device.num_sms * tile.programs_per_sm, _columns(problem, tile)
    block_n = tokens_of_tile(problem, tile)
    min_tiles = max(1, tile.min_tokens // block_n)
    most_tiles = problem.batch * math.ceil(problem.max_seq_len / block_n)
    num_parts = min(_parts(slots, columns, most_tiles * block_n), math.ceil(most_tiles / min_tiles))
    whole = problem.max_seq_len <= tile.min_tokens or _fills_waves(problem, tile, problem.batch * columns / slots)
    combine_parts = min(COMBINE_PARTS, max(4, _next_power_of_2(num_parts // problem.batch)))
    combine_columns = min(padded_head_dim(problem), max(16, tile.combine_values // combine_parts))
    return SplitKVPlan(
        problem=problem,
        block_h=tile.block_h,
        block_n=block_n,
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
        split=not whole,
        num_parts=problem.batch if whole else num_parts,
        min_tiles=min_tiles,
        late_sum=tile.late_sum,
        peel=tile.peel,
        combine_rows=max(1, tile.combine_values // (combine_parts * combine_columns)),
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


def _fills_waves(problem: PagedDecode, tile: Tile, waves: float) -> bool:
    """Whether programs of whole sequences, this many waves of them, leave little of the device idle at the end."""
    if problem.lengths == "equal":
        return tile.whole and waves > 1 and waves >= FULL_WAVES * math.ceil(waves)
    return waves >= WAVES_UNSPLIT


def tokens_of_tile(problem: PagedDecode, tile: Tile) -> int:
    """Tokens in a tile: a table of choices may give heads of 256 what was found for 128."""
    return tile.block_n if problem.head_dim <= 128 else min(tile.block_n, WIDE_TILE_TOKENS)


def _parts(slots: int, columns: int, tokens: int) -> int:
    """Equal parts for each of `columns` programs: as many as run at once, or as fill a few waves where those leave
    much of the device idle (96 columns, 264 slots: twice 96, or 11 times 96 in four waves)."""
    at_once = max(1, slots // columns)
    most = max(at_once, tokens // LEAST_TOKENS_OF_WAVE)
    by_waves = [min(most, max(1, waves * slots // columns)) for waves in range(1, MOST_WAVES + 1)]
    fills = [parts * columns / (math.ceil(parts * columns / slots) * slots) for parts in by_waves]
    enough = [parts for parts, fill in zip(by_waves, fills, strict=True) if fill >= ENOUGH_OF_DEVICE]
    return enough[0] if enough else by_waves[fills.index(max(fills))]


def _columns(problem: PagedDecode, tile: Tile) -> int:
    """Programs that read the same tokens."""
    return problem.num_kv_heads * math.ceil(problem.seq_len_q * problem.group / tile.block_h)


def facts(problem: PagedDecode) -> dict[str, int]:
    """What a table of choices tells problems apart by."""
    return {
        "rows": problem.seq_len_q * problem.group,
        "kv_bytes": 1 if problem.is_fp8 else 2,
        "head_dim": problem.head_dim,
        "head_tokens": problem.batch * problem.max_seq_len * problem.num_kv_heads,
    }


def choice_for(problem: PagedDecode, device: Device) -> Tile:
    """What was chosen by hand."""
    tile = choose_tile(problem, device)
    return replace(
        tile,
        late_sum=tile.block_h <= 32,
        dependent_launch=device.compute_capability >= 90,
        waves_per_eu=1 if device.kind == "hip" else 0,
    )


def choose_tile(problem: PagedDecode, device: Device) -> Tile:
    """Few rows leave the kernel bound by memory: two or three programs on an SM, each with tiles on their way.

    Many rows, those of a tree, leave it bound by the tensor cores: 64 rows are what a warpgroup's MMA takes.
    """
    rows = problem.seq_len_q * problem.group
    stages = 4 if problem.is_fp8 else 3  # a tile of bytes is half as long on its way
    if device.kind == "hip":
        return _tile_amd(rows, device)
    if device.kind == "cuda" and device.shared_memory_bytes < 155 * 1024:  # sm_86, sm_89, sm_120
        num_warps = 8 if rows > 16 and problem.head_dim > 128 else 4
        return Tile(16 if rows <= 16 else 64, 32, num_warps, num_stages=3)
    if rows <= 16 and device.shared_memory_bytes >= 200 * 1024 and not problem.is_fp8 and problem.head_dim <= 128:
        return _tile_few_rows(problem, device)
    if rows <= 32:
        return Tile(16 if rows <= 16 else 32, 64, num_warps=4, num_stages=stages, programs_per_sm=2)
    if device.compute_capability != 90:
        return Tile(64, 64, num_warps=8, num_stages=3)
    is_tree = isinstance(problem, TreeDecode)  # whose mask takes registers
    if problem.head_dim > 128:
        is_lean = rows > 64 and not problem.is_fp8 and not is_tree
        return Tile(128 if is_lean else 64, WIDE_TILE_TOKENS, num_warps=8, num_stages=3)
    if rows <= 64 or problem.is_fp8:
        return Tile(64, 32 if is_tree else 64, num_warps=4, num_stages=3, programs_per_sm=2)
    return Tile(128, 64, num_warps=8, num_stages=3)


def _tile_few_rows(problem: PagedDecode, device: Device) -> Tile:
    """sm_90 and sm_100, 16-bit caches: as many bytes on their way as shared memory holds, and parts that suit them.

    H200, tuning, heads of 128, us:                            64 s3, 2 an SM    64 s4, 2 an SM    32 s5, 3 an SM
        1 x 8192 tokens, 8 KV heads: 248 tokens a program      15.1                                16.8
        64 x 8192 tokens, 1 KV head: 1986 tokens               80.4              80.0              73.7
        64 x 8192 tokens, 8 KV heads: 15888 tokens, whole                        474
        likewise in parts, the last ones smaller               538               514               528
    """
    share = problem.batch * problem.max_seq_len * problem.num_kv_heads / (2 * device.num_sms)
    if share < SHORT_SHARE_TOKENS:
        return Tile(16, 64, num_warps=4, num_stages=3, programs_per_sm=2)
    if share < LONG_SHARE_TOKENS:
        return Tile(16, 32, num_warps=4, num_stages=5, programs_per_sm=3)
    return Tile(16, 64, num_warps=4, num_stages=4, programs_per_sm=2)


def _tile_amd(rows: int, device: Device) -> Tile:
    """A tile of K and one of V lie in LDS: 64 KB on gfx942, 160 KB on gfx950."""
    if device.warp_size == 32:  # RDNA: half the registers for a warp
        return Tile(16, 32, num_warps=4, num_stages=2, programs_per_sm=2)
    has_large_lds = device.shared_memory_bytes > 64 * 1024
    block_n = 64 if has_large_lds else 32
    if rows <= 16:
        return Tile(16, block_n, num_warps=4, num_stages=2, programs_per_sm=2 if has_large_lds else 3)
    return Tile(32 if rows <= 32 else 64, block_n, num_warps=4, num_stages=2)


def padded_head_dim(problem: PagedDecode) -> int:
    """Of a head in a tile: a power of two."""
    return max(16, _next_power_of_2(problem.head_dim))


def _next_power_of_2(n: int) -> int:
    return 1 << max(0, n - 1).bit_length()
