"""What a search may choose for prefill on Hopper: how `prefill_gluon_hopper` lays out, hands out and does its items."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..device import Device
from ..problem import Inputs
from ..space import Space, Value, Work
from ._prefill_hopper_choice import Schedule, choice_for, facts, tiles_that_fit
from ._prefill_space import work_of
from .problem import AttentionPrefill

BLOCK_M = 128
BARRIER_BYTES = 1024
CACHE_MIB = (8, 12, 16, 24, 36, 1024)
"""The last: all heads at once."""

ABOUT = """Attention prefill in Gluon for Hopper: two warpgroups compute, a warp fetches.

With the softmax scale a, over the keys that a query sees:

    out = softmax(a * q . k^T) . v        lse = ln sum exp(a * q . k^T)

A persistent program walks over its items, 128 queries of one head each. `plan` lists them: a few KV heads at a time, so
that the keys and values of those at work stay in L2, of these the heaviest first, each for the program that would be
free first. A program's producer, one warp, copies Q, K and V tiles by TMA into rings of shared memory. Its two
consumers, a warpgroup each, own 64 of the queries: a consumer starts the scores of a tile and, behind them, P.V of the
tile before; it works on the softmax of these scores while P.V runs, as in FlashAttention-3 (arXiv 2407.08608). Tiles go
from the last to the first: those behind a mask come first, those of a window's edge last.

Each buffer has two barriers: `full`, which TMA completes, and `empty`, at which both consumers arrive. A barrier's
phase follows from a count of the tiles (for Q of the items) that a partition has had.
"""


def _values(device: Device) -> Mapping[str, tuple[Value, ...]]:
    return {
        "block_n": (64, 128),
        "stages": (2, 3, 4, 5, 6),
        "cache_mib": CACHE_MIB,
        "start_tiles": (0, 1, 2, 4),
        "late_rounding": (False, True),
    }


def _why_not(problem: AttentionPrefill, schedule: Schedule, device: Device) -> str | None:
    if problem.head_dim > 128:
        if tiles_that_fit(problem, schedule) == (schedule.block_n, schedule.stages):
            return None
        return "heads above 128 have tiles of at most 64 keys, two at once"
    row_bytes = 2 * problem.head_dim
    shared_bytes = row_bytes * (BLOCK_M + 2 * schedule.block_n * schedule.stages) + BARRIER_BYTES
    if shared_bytes > device.shared_memory_bytes:
        return f"{shared_bytes} bytes of shared memory for its tiles, of {device.shared_memory_bytes}"
    if schedule.block_n == 64 and schedule.stages < 4:
        return "small tiles want more of them on their way"
    at_once = [_heads_at_once(problem, mib) for mib in CACHE_MIB]
    place = CACHE_MIB.index(schedule.cache_mib)
    if place < len(CACHE_MIB) - 1 and at_once[place] == at_once[place + 1]:
        return f"as many heads' keys fit {schedule.cache_mib} MiB as {CACHE_MIB[place + 1]}"
    return None


def _heads_at_once(problem: AttentionPrefill, cache_mib: int) -> int:
    """As `prefill_items.heads_at_once`."""
    num_keys = sum(keys for _, keys in problem.sequences())
    fitting = max(1, (cache_mib << 20) // max(1, num_keys * 4 * problem.head_dim))
    return -(-problem.num_kv_heads // -(-problem.num_kv_heads // fitting))


def _work(problem: AttentionPrefill, schedule: Schedule, device: Device) -> Work:
    return work_of(problem, BLOCK_M, schedule.block_n)


def _plan_from(problem: AttentionPrefill, schedule: Schedule, device: Device, inputs: Inputs) -> Any:
    from .prefill_gluon_hopper import plan_from

    return plan_from(problem, schedule, device, inputs)


PREFILL_HOPPER = Space(
    template="prefill_gluon_hopper",
    what="prefill_hopper",
    about=ABOUT,
    choice=Schedule,
    values=_values,
    why_not=_why_not,
    choice_for=choice_for,
    plan_from=_plan_from,
    facts=facts,
    work=_work,
    tasks=("prefill",),
    reads_inputs=True,
    arch="sm_90",
    parts=("prefill_items", "prefill_hopper"),
)
