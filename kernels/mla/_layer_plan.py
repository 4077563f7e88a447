"""Launch decisions of layer_triton: pure functions of a problem's shape and a `Device`, never of lengths."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..device import Device
from ..problem import Inputs, Problem
from ._dims import HEAD_DIM
from ._layer_problem import MLALayer
from ._split_kv_plan import SplitKVPlan
from ._split_kv_plan import plan as plan_decode

PROGRAMS_PER_SM = 2
MIN_STEPS = 8
"""Least steps of a split product: fewer cost more to add up than a further program saves."""


@dataclass(frozen=True)
class Tile:
    """The shape of one program of a product x . W^T, [rows, columns] over steps of the inner dimension."""

    rows: int
    columns: int
    inner: int
    num_warps: int
    num_stages: int
    splits: int = 1
    """Parts of the inner dimension; their products are added by another kernel."""


@dataclass(frozen=True)
class LayerPlan:
    """What the layer's kernels are launched with."""

    num_heads: int
    q_lora_rank: int
    rms_norm_eps: float
    project: Tile
    """W_qkv_a, the product with the hidden state."""
    queries: Tile
    """W_q_b and W_uk of one head; `columns` are those of the absorbed query that are stored at once."""
    decode: SplitKVPlan
    values: Tile
    """W_uv of one head; `columns` are all 128."""
    output: Tile
    """W_o."""


def plan(problem: Problem, plan_inputs: Inputs, device: Device) -> LayerPlan:
    """Every launch decision, from shapes alone: `plan_inputs` may be meta tensors."""
    assert isinstance(problem, MLALayer)
    return LayerPlan(
        num_heads=problem.num_heads,
        q_lora_rank=problem.q_lora_rank,
        rms_norm_eps=problem.rms_norm_eps,
        project=_split(_product(problem, device), problem.q_lora_rank + HEAD_DIM, problem.hidden_size, problem, device),
        queries=_queries(problem, device),
        decode=plan_decode(problem.decode_problem(), plan_inputs, device),
        values=_values(problem, device),
        output=_split(_product(problem, device), problem.hidden_size, problem.num_heads * 128, problem, device),
    )


def _rows(problem: MLALayer) -> int:
    """Sequences in a program: weights are read once by up to 64 of them, from L2 by the next."""
    return min(64, max(16, 1 << (problem.batch - 1).bit_length()))


def _product(problem: MLALayer, device: Device) -> Tile:
    """Reads of weights bound it: many bytes in flight, with two or three programs on a multiprocessor."""
    rows = _rows(problem)
    if device.kind == "hip":
        return Tile(rows, 64, 64, num_warps=4, num_stages=2)
    if device.kind == "cuda" and device.shared_memory_bytes < 155 * 1024:
        return Tile(rows, 64, 64, num_warps=4, num_stages=3)
    return Tile(rows, 64, 128 if rows <= 16 else 64, num_warps=4, num_stages=4)


def _split(tile: Tile, columns: int, inner: int, problem: MLALayer, device: Device) -> Tile:
    """As many parts as give every multiprocessor its programs, none of fewer than `MIN_STEPS` steps."""
    programs = math.ceil(columns / tile.columns) * math.ceil(problem.batch / tile.rows)
    steps = math.ceil(inner / tile.inner)
    wanted = PROGRAMS_PER_SM * device.num_sms // programs
    splits = max(1, min(wanted, steps // MIN_STEPS))
    if device.kind == "cpu":  # Triton's interpreter, which shall see every kernel
        splits = min(2, steps)
    return Tile(tile.rows, tile.columns, tile.inner, tile.num_warps, tile.num_stages, splits)


def _queries(problem: MLALayer, device: Device) -> Tile:
    rows = _rows(problem)
    if device.kind == "hip":
        return Tile(rows, 64, 32, num_warps=4, num_stages=2)
    stages = 2 if device.shared_memory_bytes < 155 * 1024 else 3
    return Tile(rows, 64, 64, num_warps=4, num_stages=stages)


def _values(problem: MLALayer, device: Device) -> Tile:
    rows = _rows(problem)
    if device.kind == "hip":
        return Tile(rows, 128, 32, num_warps=4, num_stages=2)
    stages = 2 if device.shared_memory_bytes < 155 * 1024 else 4
    return Tile(rows, 128, 64, num_warps=4, num_stages=stages)
