"""What is chosen for prefill_gluon_hopper, rather than derived."""

from __future__ import annotations

from dataclasses import dataclass

from ..device import Device
from .problem import AttentionPrefill

STAGES = 3
"""What shared memory holds beside Q. H200, tuning, 8192 tokens of 64 heads: 1771 us, with two stages 1793."""


WIDE_TILES = (64, 2)
"""Keys in a tile and tiles in a ring, at most, of heads above 128: they and Q of 256 columns take 193 KiB."""


@dataclass(frozen=True)
class Schedule:
    """How items are laid out, handed out and worked on."""

    block_n: int = 128
    """Keys in a tile."""
    stages: int = STAGES
    """Tiles of K, and of V, in shared memory at once."""
    cache_mib: int = 24
    """Of all keys and values as many heads' as fit it are worked on at the same time."""
    start_tiles: int = 1
    """What an item costs beside its tiles, in tiles."""
    late_rounding: bool = False
    """Whether a step rounds the probabilities of the one before it, rather than its own."""


def facts(problem: AttentionPrefill) -> dict[str, int]:
    """What a table of choices tells problems apart by."""
    return {
        "head_dim": problem.head_dim,
        "is_causal": int(problem.causal),
        "has_window": int(problem.window > 0),
        "kv_heads": problem.num_kv_heads,
        "keys": problem.batch * problem.seq_len_kv,
    }


def tiles_that_fit(problem: AttentionPrefill, schedule: Schedule) -> tuple[int, int]:
    """(keys in a tile, tiles in a ring): a table of choices may give heads of 256 what was found for 128."""
    if problem.head_dim <= 128:
        return schedule.block_n, schedule.stages
    return min(schedule.block_n, WIDE_TILES[0]), min(schedule.stages, WIDE_TILES[1])


def choice_for(problem: AttentionPrefill, device: Device) -> Schedule:
    """What was chosen by hand."""
    return Schedule()
