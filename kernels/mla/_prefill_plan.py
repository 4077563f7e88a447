"""Launch decisions of prefill_triton: pure functions of a problem's shape and a `Device`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from ..device import Device
from ..prefill_split import parts_of_keys
from ..problem import Inputs, Problem
from ._dims import QK_HEAD_DIM, V_HEAD_DIM
from ._prefill_problem import MLAPrefill

L2_BYTES = 16 << 20
"""K and V of the heads that are worked on at the same time should not exceed it, so that they are read from memory
once: a third of an H200's L2, of which a program's other data take their share."""
XCDS = 8
"""Of an MI300X: neighbours in the grid go to different ones, each of which has an L2 of its own."""


@dataclass(frozen=True)
class PrefillPlan:
    """What the kernel is launched with."""

    softmax_scale: float
    block_m: int
    """Queries in a program."""
    block_n: int
    """Tokens in a tile."""
    num_warps: int
    num_stages: int
    heads_at_once: int
    """Heads whose programs are neighbours in the grid."""
    num_tiles: int
    """Programs of one head: at least the tiles of all sequences' queries."""
    parts: int
    """Of each tile's keys."""
    backend_options: Mapping[str, int] = field(default_factory=dict)
    """Options of one backend only: `waves_per_eu` on AMD."""


def plan(problem: Problem, plan_inputs: Inputs, device: Device) -> PrefillPlan:
    """Every launch decision, from shapes alone: `plan_inputs` may be meta tensors."""
    assert isinstance(problem, MLAPrefill)
    block_m, block_n, num_warps, num_stages = _tile(problem, device)
    head_bytes = problem.total_kv * (QK_HEAD_DIM + V_HEAD_DIM) * 2
    heads_at_once = XCDS if device.kind == "hip" else max(1, L2_BYTES // max(1, head_bytes))
    # Every sequence may end with a tile that is not full.
    num_tiles = (problem.total_q + problem.batch * (block_m - 1)) // block_m
    return PrefillPlan(
        softmax_scale=problem.softmax_scale,
        block_m=block_m,
        block_n=block_n,
        num_warps=num_warps,
        num_stages=num_stages,
        heads_at_once=min(problem.num_heads, heads_at_once),
        num_tiles=num_tiles,
        parts=parts_of_keys(num_tiles * problem.num_heads, problem.seq_len_kv, device),
        backend_options={"waves_per_eu": 2} if device.kind == "hip" else {},
    )


def _tile(problem: MLAPrefill, device: Device) -> tuple[int, int, int, int]:
    """(block_m, block_n, num_warps, num_stages): the largest tiles that fit and whose compiled code does not spill."""
    most_queries = max(16, 1 << (problem.seq_len_q - 1).bit_length())
    if device.kind == "cpu":  # Triton's interpreter: few steps
        return min(most_queries, 64), 64, 4, 1
    blocks = problem.batch * math.ceil(problem.seq_len_q / 128) * problem.num_heads
    if 2 * blocks <= device.num_sms:  # smaller ones use more of the device
        most_queries = min(most_queries, 64)
    num_warps = 8 if most_queries > 64 else 4  # two of Hopper's warpgroups would compute the same 64 rows
    if device.kind == "hip":
        if device.warp_size == 32:  # RDNA
            return min(most_queries, 64), 16, 8, 1
        return min(most_queries, 128), 64 if device.shared_memory_bytes > 64 * 1024 else 32, num_warps, 2
    if device.kind == "cuda" and device.shared_memory_bytes < 155 * 1024:  # sm_86, sm_89, sm_120
        return min(most_queries, 64), 32, 4, 2
    if device.compute_capability >= 90:  # H200, tuning, 8192 tokens of 128 heads: 5804 us, with two stages 7034
        return min(most_queries, 128), 64, num_warps, 3
    return min(most_queries, 128), 32, num_warps, 2
