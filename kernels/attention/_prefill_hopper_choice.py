"""What is chosen for prefill_gluon_hopper, rather than derived."""

from __future__ import annotations

from dataclasses import dataclass

from ..device import Device
from .problem import AttentionPrefill

STAGES = 3
"""What shared memory holds beside Q. H200, tuning, 8192 tokens of 64 heads: 1771 us, with two stages 1793."""


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


def choice_for(problem: AttentionPrefill, device: Device) -> Schedule:
    """What was chosen by hand."""
    return Schedule()
