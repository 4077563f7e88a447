"""Launch decisions of prefill_triton_flash: from a problem's shape, its sequences' lengths and a `Device`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from ..device import Device
from ..lengths import planned_lengths
from ..prefill_split import parts_of_keys
from ..problem import Inputs, Problem
from ._prefill_choice import Tile, choice_for, heads_that_fit, padded_head_dim
from .problem import AttentionPrefill


@dataclass(frozen=True)
class PrefillPlan:
    """What the kernel is launched with."""

    softmax_scale: float
    causal: bool
    window: int
    return_lse: bool
    padded_dim: int
    """Columns of a tile: a power of two."""
    blocks: torch.Tensor
    """[blocks of queries, 2] int32: sequence, and which block of it; the heaviest first."""
    block_m: int
    block_n: int
    num_warps: int
    num_stages: int
    tma: bool
    kv_heads_fastest: bool
    heads_at_once: int
    """Query heads that are worked on before others: a divisor of all."""
    parts: int
    """Of each block's keys; 1 unless all heads are worked on at once."""
    backend_options: Mapping[str, int] = field(default_factory=dict)
    """Options of one backend only: on AMD `waves_per_eu`, `matrix_instr_nonkdim`, `kpack`."""


def plan(problem: Problem, plan_inputs: Inputs, device: Device) -> PrefillPlan:
    """Every launch decision. Lengths are read from the tables; on device `meta`, the problem's own stand for them."""
    assert isinstance(problem, AttentionPrefill)
    return plan_from(problem, choice_for(problem, device), device, plan_inputs)


def plan_from(problem: AttentionPrefill, tile: Tile, device: Device, plan_inputs: Inputs) -> PrefillPlan:
    """What follows from a choice."""
    sequences = planned_lengths(plan_inputs, problem.sequences)
    listed = heaviest_first(problem, sequences, tile.block_m)
    blocks = torch.tensor(listed, dtype=torch.int32)
    at_once = heads_that_fit(problem, tile) if tile.cache_mib else problem.num_heads
    return PrefillPlan(
        softmax_scale=problem.softmax_scale,
        causal=problem.causal,
        window=problem.window,
        return_lse=problem.return_lse,
        padded_dim=padded_head_dim(problem),
        blocks=blocks.to(plan_inputs["cu_seqlens_q"].device),
        block_m=tile.block_m,
        block_n=tile.block_n,
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
        tma=tile.tma and _has_descriptor(problem, sequences),
        kv_heads_fastest=tile.kv_heads_fastest,
        heads_at_once=at_once,
        parts=_parts(problem, sequences, len(listed), device) if at_once == problem.num_heads else 1,
        backend_options={
            "waves_per_eu": tile.waves_per_eu,
            "matrix_instr_nonkdim": tile.matrix_instr_nonkdim,
            "kpack": tile.kpack,
        }
        if device.kind == "hip"
        else {},
    )


def _has_descriptor(problem: AttentionPrefill, sequences: list[tuple[int, int]]) -> bool:
    """Whether TMA can describe the keys: tensors that are not empty, in tiles of powers of two."""
    return padded_head_dim(problem) == problem.head_dim and any(num_keys for _, num_keys in sequences)


def _parts(problem: AttentionPrefill, sequences: list[tuple[int, int]], blocks: int, device: Device) -> int:
    """Of the keys of each block."""
    keys = max((num_keys for _, num_keys in sequences), default=0)
    if problem.window:
        keys = min(keys, problem.window)
    return parts_of_keys(blocks * problem.num_heads, keys, device)


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
