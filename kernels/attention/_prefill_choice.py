"""What is chosen for prefill_triton_flash, rather than derived: from a problem's shape and a `Device`."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..device import Device
from .problem import AttentionPrefill


@dataclass(frozen=True)
class Tile:
    """The shape of one program, and all else that is chosen."""

    block_m: int
    """Queries."""
    block_n: int
    """Keys in a tile."""
    num_warps: int
    num_stages: int
    tma: bool = False
    """Whether k and v are read through tensor descriptors."""
    kv_heads_fastest: bool = False
    """Whether neighbours in the grid have different KV heads, not query heads that share one."""
    cache_mib: int = 0
    """Of all keys and values as many heads' as fit it are worked on at the same time; 0: those of all heads are."""
    waves_per_eu: int = 0
    """AMD: waves that share a SIMD's registers; 0 leaves it to the compiler."""
    matrix_instr_nonkdim: int = 0
    """AMD: rows of the matrix instruction; 0 leaves it to the compiler."""
    kpack: int = 1
    """AMD: vectors of K that a thread has beside each other, for one wide read from LDS."""


def facts(problem: AttentionPrefill) -> dict[str, int]:
    """What a table of choices tells problems apart by."""
    return {
        "head_dim": problem.head_dim,
        "is_causal": int(problem.causal),
        "has_window": int(problem.window > 0),
        "kv_heads": problem.num_kv_heads,
        "keys": problem.batch * problem.seq_len_kv,
    }


def choice_for(problem: AttentionPrefill, device: Device) -> Tile:
    """What was chosen by hand: the largest tiles whose compiled code spills no register; timed on an H200 only."""
    tile = _tile_wide(device) if problem.head_dim > 128 else _tile(problem, device)
    # Few queries, or few blocks of them: smaller blocks waste fewer rows, and use more of the device.
    blocks = problem.batch * -(-problem.seq_len_q // tile.block_m) * problem.num_heads
    if tile.block_m > 64 and (problem.seq_len_q <= 64 or 2 * blocks <= device.num_sms):
        return replace(tile, block_m=64, num_warps=max(4, tile.num_warps // 2))
    return tile


def _tile_wide(device: Device) -> Tile:
    """Heads above 128, in 256 columns."""
    if device.kind == "hip":
        if device.warp_size == 32:  # RDNA
            return Tile(32, 32, num_warps=4, num_stages=1)
        return Tile(64, 32, num_warps=4, num_stages=1, kv_heads_fastest=True, waves_per_eu=1)
    if device.kind == "cpu":
        return Tile(16, 16, num_warps=4, num_stages=1)
    if device.compute_capability in (90, 100, 103):
        return Tile(128, 64, num_warps=8, num_stages=2, tma=True)
    return Tile(64, 32, num_warps=8, num_stages=2)


def _tile(problem: AttentionPrefill, device: Device) -> Tile:
    is_wide = problem.head_dim > 64
    if device.kind == "hip":
        return _tile_amd(is_wide, device)
    if device.kind == "cpu":
        return Tile(16, 16, num_warps=4, num_stages=1)
    if device.compute_capability == 90:  # H200, tuning, 8192 tokens of 64 heads: 2557 us, with 128 keys 2674
        return Tile(128, 64 if is_wide else 128, num_warps=8, num_stages=3, tma=True)
    if device.compute_capability in (100, 103):
        return Tile(128, 128, num_warps=8, num_stages=2 if is_wide else 3, tma=True)
    if device.shared_memory_bytes < 155 * 1024:  # sm_86, sm_89, sm_120
        return Tile(128, 32 if is_wide else 64, num_warps=8 if is_wide else 4, num_stages=2)
    return Tile(128, 32 if is_wide and problem.window else 64, num_warps=8, num_stages=3)


def padded_head_dim(problem: AttentionPrefill) -> int:
    """Columns of a tile: a power of two."""
    return 1 << (problem.head_dim - 1).bit_length()


def heads_that_fit(problem: AttentionPrefill, tile: Tile) -> int:
    """Query heads whose keys and values fit `cache_mib` together, or all that share one: a divisor of all."""
    head_bytes = 2 * problem.batch * problem.seq_len_kv * problem.head_dim * 2
    fitting = max(1, (tile.cache_mib << 20) // max(1, head_bytes))
    divisors = (n for n in range(1, problem.num_kv_heads + 1) if problem.num_kv_heads % n == 0 and n <= fitting)
    return max(divisors) * problem.group


def _tile_amd(is_wide: bool, device: Device) -> Tile:
    """XCDs take programs in turn: with KV heads fastest, one XCD's L2 holds the keys of few of them."""
    if device.warp_size == 32:  # RDNA: half the registers for a warp
        return Tile(64, 32, num_warps=4, num_stages=1)
    stages = 2 if device.shared_memory_bytes > 64 * 1024 or not is_wide else 1
    return Tile(128, 32 if is_wide else 64, 4, stages, kv_heads_fastest=True, waves_per_eu=2)
