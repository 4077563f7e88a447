"""Launch decisions of prefill_triton_flash: from a problem's shape, its sequences' lengths and a `Device`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from ..device import Device
from ..lengths import planned_lengths
from ..problem import Inputs, Problem
from ._prefill_problem import AttentionPrefill


@dataclass(frozen=True)
class Tile:
    """The shape of one program."""

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
    backend_options: Mapping[str, int] = field(default_factory=dict)
    """Options of one backend only: `waves_per_eu` on AMD."""


@dataclass(frozen=True)
class PrefillPlan:
    """What the kernel is launched with."""

    softmax_scale: float
    causal: bool
    window: int
    return_lse: bool
    tile: Tile
    blocks: torch.Tensor
    """[blocks of queries, 2] int32: sequence, and which block of it; the heaviest first."""


def plan(problem: Problem, plan_inputs: Inputs, device: Device) -> PrefillPlan:
    """Every launch decision. Lengths are read from the tables; on device `meta`, the problem's own stand for them."""
    assert isinstance(problem, AttentionPrefill)
    tile = _tile(problem, device)
    sequences = planned_lengths(plan_inputs, problem.sequences)
    blocks = torch.tensor(heaviest_first(problem, sequences, tile.block_m), dtype=torch.int32)
    return PrefillPlan(
        softmax_scale=problem.softmax_scale,
        causal=problem.causal,
        window=problem.window,
        return_lse=problem.return_lse,
        tile=tile,
        blocks=blocks.to(plan_inputs["cu_seqlens_q"].device),
    )


def heaviest_first(problem: AttentionPrefill, sequences: list[tuple[int, int]], block_m: int) -> list[tuple[int, int]]:
    """(sequence, block of it) of all queries, in order of falling numbers of keys that a block walks over."""

    def keys(sequence: int, block: int) -> int:
        num_queries, num_keys = sequences[sequence]
        if not problem.causal:
            return num_keys
        first_position = num_keys - num_queries + block * block_m
        start = max(0, first_position - problem.window + 1) if problem.window else 0
        return max(0, min(num_keys, first_position + block_m) - start)

    blocks = [(b, i) for b, (num_queries, _) in enumerate(sequences) for i in range(-(-num_queries // block_m))]
    return sorted(blocks, key=lambda block: -keys(*block))


def _tile(problem: AttentionPrefill, device: Device) -> Tile:
    """The largest tiles whose compiled code spills no register; timed on an H200 only."""
    is_wide = problem.head_dim == 128
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


def _tile_amd(is_wide: bool, device: Device) -> Tile:
    """XCDs take programs in turn: with KV heads fastest, one XCD's L2 holds the keys of few of them."""
    if device.warp_size == 32:  # RDNA: half the registers for a warp
        return Tile(64, 32, num_warps=4, num_stages=1)
    stages = 2 if device.shared_memory_bytes > 64 * 1024 or not is_wide else 1
    options = {"waves_per_eu": 2}
    return Tile(128, 32 if is_wide else 64, 4, stages, kv_heads_fastest=True, backend_options=options)
