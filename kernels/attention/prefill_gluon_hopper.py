"""Attention prefill for Hopper: the kernel in `_prefill_hopper`, which works on items of 128 queries of one head.

The list of items is made in `plan`, from the lengths; see `HopperPlan`. What an item is to see is known there, too:
tiles behind a mask at the right, whole tiles, and tiles behind a mask at the window's edge.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import torch

from ..kernel import Kernel, Origin
from ..problem import Inputs, Outputs
from ._prefill_plan import PrefillPlan, heaviest_first
from ._prefill_plan import plan as plan_fallback
from .prefill_triton_flash import run as run_fallback

if TYPE_CHECKING:
    from ..device import Device
    from ._prefill_problem import AttentionPrefill

BLOCK_M = 128
BLOCK_N = 128
LOG2_E = math.log2(math.e)


@dataclass(frozen=True)
class HopperPlan:
    """What the kernel is launched with."""

    problem: AttentionPrefill
    items: torch.Tensor
    """[blocks of queries, 8] int32, the heaviest first: first row of q, queries from there to the sequence's end, first
    row of k, keys, position of the first query, and how many tiles of keys are masked at the right, whole, and masked
    at the left. Each block is an item for every head."""
    programs: int
    """Persistent programs; with as many as items none is."""
    stages: int = 2
    """Tiles of K, and of V, in shared memory at once."""
    pingpong: bool = True
    """Whether the consumers take turns."""
    fallback: PrefillPlan | None = None
    """For Triton's interpreter, which runs no Gluon."""


def supports(problem: AttentionPrefill, device: Device) -> str | None:
    """None, or the limit that this device is past."""
    return None if device.arch == "sm_90" else f"it is written for sm_90; this is {device.arch}"


def plan(problem: AttentionPrefill, plan_inputs: Inputs, device: Device) -> HopperPlan:
    """List the items."""
    starts_q, starts_kv = plan_inputs["cu_seqlens_q"], plan_inputs["cu_seqlens_kv"]
    if starts_q.is_meta:
        sequences = problem.sequences()
    else:
        sequences = list(zip(starts_q.diff().tolist(), starts_kv.diff().tolist(), strict=True))
    rows = list(accumulate(sequences, lambda a, b: (a[0] + b[0], a[1] + b[1]), initial=(0, 0)))
    blocks = heaviest_first(problem, sequences, BLOCK_M)
    items = torch.tensor([item(problem, rows[b], sequences[b], i) for b, i in blocks], dtype=torch.int32)
    return HopperPlan(
        problem=problem,
        items=items.to(starts_q.device),
        programs=min(device.num_sms, len(blocks) * problem.num_heads),
        fallback=plan_fallback(problem, plan_inputs, device) if starts_q.is_cpu else None,
    )


def item(problem: AttentionPrefill, rows: tuple[int, int], lengths: tuple[int, int], block: int) -> tuple[int, ...]:
    """One row of `HopperPlan.items`, from its sequence's first rows of q and k and its numbers of queries and keys."""
    (first_q, first_kv), (num_queries, num_keys) = rows, lengths
    first = block * BLOCK_M
    position = num_keys - num_queries + first
    end, whole_end, start, whole_start = num_keys, num_keys // BLOCK_N, 0, 0  # the latter three in tiles
    if problem.causal:
        end = max(0, min(num_keys, position + BLOCK_M))
        whole_end = max(0, min(num_keys, position + 1)) // BLOCK_N
    all_tiles = math.ceil(end / BLOCK_N)
    if problem.window:
        start = max(0, position - problem.window + 1) // BLOCK_N
        whole_start = min(all_tiles, math.ceil(max(0, position + BLOCK_M - problem.window) / BLOCK_N))
    # The kernel's first tile is behind a mask, if there is any.
    whole_end = max(whole_start, min(whole_end, all_tiles - 1))
    right, whole = all_tiles - whole_end, whole_end - whole_start
    if right == 0 and all_tiles > start:
        right, whole_start = 1, whole_start - 1
    left = whole_start - start
    return first_q + first, num_queries - first, first_kv, num_keys, position, right, whole, left


def run(inputs: Inputs, state: HopperPlan) -> Outputs:
    """One launch."""
    q, k, v = inputs["q"], inputs["k"], inputs["v"]
    if state.fallback:
        return run_fallback(inputs, state.fallback)
    from ._prefill_hopper import prefill_hopper

    problem = state.problem
    out = torch.empty_like(q)
    outputs = {"out": out}
    if problem.return_lse:
        outputs["lse"] = q.new_empty(q.shape[:2], dtype=torch.float32)
    num_items = len(state.items) * problem.num_heads
    prefill_hopper[(state.programs,)](
        _descriptor(q, 64), _descriptor(k, BLOCK_N), _descriptor(v, BLOCK_N), state.items, num_items,
        out, outputs.get("lse", out), problem.softmax_scale * LOG2_E,
        NUM_HEADS=problem.num_heads, NUM_KV_HEADS=problem.num_kv_heads, BLOCK_N=BLOCK_N, HEAD_DIM=problem.head_dim,
        STAGES=state.stages, CAUSAL=problem.causal, WINDOW=problem.window, RETURN_LSE=problem.return_lse,
        PINGPONG=state.pingpong, num_warps=4,
    )  # fmt: skip
    return outputs


def _descriptor(tensor: torch.Tensor, rows: int) -> Any:
    """Tiles of [rows, head_dim] from [tokens, heads * head_dim]."""
    from triton.experimental.gluon.language import NVMMASharedLayout
    from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

    layout = NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=2)
    return TensorDescriptor.from_tensor(tensor.flatten(1), [rows, tensor.shape[2]], layout)


KERNEL = Kernel(
    origin=Origin.HAND,
    tasks=("prefill",),
    supports=supports,
    run=run,
    plan=plan,
    requires=("triton",),
    uses_triton=True,
)
