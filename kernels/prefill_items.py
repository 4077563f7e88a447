"""Host code of `prefill_hopper`: which program works on which queries of which head, in which order; and the launch.

An item is BLOCK_M queries of one head. Items differ in work by their position, under a causal mask, and by their
sequence's length. They are taken a few KV heads at a time, so that the keys and values of those at work stay in L2; of
these heads the heaviest first. Each goes to the program that would be free first, as the device itself would hand them
out, but with the next item known: the program fetches its Q and first keys while it still works on the one before.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, NamedTuple

import torch

from .device import Device
from .problem import Outputs, Problem

BLOCK_M = 128
BLOCK_N = 128
"""H200, tuning, 8192 tokens of MLA's 128 heads: 4362 us; with 64 keys and four stages 4964."""
LOG2_E = math.log2(math.e)
L2_BYTES = 24 << 20
"""K and V of the heads that are worked on at the same time should not exceed it: half of an H200's L2.

H200, tuning, 4 x 4096 tokens of 48 KV heads: 1441 us, with all heads at once 1686, with 12 MiB 1440; 8192 tokens of
MLA's 128 heads: 4362 us, with 12 MiB 4339, with 40 MiB 4330.
"""
START_TILES = 1
"""What an item costs beside its tiles: its first scores and last values have nothing to overlap with. Not timed."""


class Item(NamedTuple):
    """One row of the table that `prefill_hopper` reads."""

    first_q: int
    """Row of q."""
    num_queries: int
    """From there to the sequence's end, may be more than BLOCK_M; 0: nothing is to be done."""
    first_kv: int
    """The sequence's first row of k."""
    num_keys: int
    """Of the sequence."""
    position: int
    """Of the first query among the keys."""
    right: int
    """Tiles of keys behind a mask at the right."""
    whole: int
    """Tiles that all queries see whole."""
    left: int
    """Tiles behind a mask at the left, the window's edge."""
    head: int = 0

    @property
    def num_tiles(self) -> int:
        """All tiles of keys that are walked over."""
        return self.right + self.whole + self.left


@dataclass(frozen=True)
class HopperPlan:
    """What `prefill_hopper` is launched with."""

    items: torch.Tensor
    """[turns, programs, fields of Item] int32: what each program does in each of its turns; zeros: nothing."""
    softmax_scale: float
    num_heads: int
    num_kv_heads: int
    causal: bool
    window: int
    return_lse: bool
    rope: int = 0
    """Columns that q and k have more than v: 0 or 64."""
    stages: int = 2
    """Tiles of K, and of V, in shared memory at once."""
    block_n: int = BLOCK_N
    """Keys in a tile."""
    late_rounding: bool = False
    """Whether a step rounds the probabilities of the one before it, rather than its own."""
    fallback: Any = None
    """Another kernel's plan: for Triton's interpreter, which runs no Gluon, and where that one splits keys."""


def for_hopper(problem: Problem, device: Device) -> str | None:
    """None, or the limit that this device is past."""
    return None if device.arch == "sm_90" else f"it is written for sm_90; this is {device.arch}"


def item(
    rows: tuple[int, int], lengths: tuple[int, int], block: int, causal: bool, window: int, block_n: int = BLOCK_N
) -> Item:
    """Of a block of queries, from its sequence's first rows of q and k and its numbers of queries and keys."""
    (first_q, first_kv), (num_queries, num_keys) = rows, lengths
    first = block * BLOCK_M
    position = num_keys - num_queries + first
    end, whole_end, start, whole_start = num_keys, num_keys // block_n, 0, 0  # the latter three in tiles
    if causal:
        end = max(0, min(num_keys, position + BLOCK_M))
        whole_end = max(0, min(num_keys, position + 1)) // block_n
    all_tiles = math.ceil(end / block_n)
    if window:
        start = max(0, position - window + 1) // block_n
        whole_start = min(all_tiles, math.ceil(max(0, position + BLOCK_M - window) / block_n))
    # The kernel's first tile is behind a mask, if there is any.
    whole_end = max(whole_start, min(whole_end, all_tiles - 1))
    right, whole = all_tiles - whole_end, whole_end - whole_start
    if right == 0 and all_tiles > start:
        right, whole_start = 1, whole_start - 1
    left = whole_start - start
    return Item(first_q + first, num_queries - first, first_kv, num_keys, position, right, whole, left)


def heads_at_once(num_keys: int, num_kv_heads: int, bytes_per_key: int, l2_bytes: int = L2_BYTES) -> int:
    """KV heads whose keys and values fit L2 together, in groups of about the same number."""
    fitting = max(1, l2_bytes // max(1, num_keys * bytes_per_key))
    return math.ceil(num_kv_heads / math.ceil(num_kv_heads / fitting))


def table(
    sequences: Sequence[tuple[int, int]], num_heads: int, num_kv_heads: int, causal: bool, window: int,
    programs: int, kv_heads_at_once: int, block_n: int = BLOCK_N, start_tiles: int = START_TILES,
) -> torch.Tensor:  # fmt: skip
    """`HopperPlan.items`, from the (queries, keys) of every sequence."""
    rows = list(accumulate(sequences, lambda a, b: (a[0] + b[0], a[1] + b[1]), initial=(0, 0)))
    blocks = [
        item(rows[b], lengths, i, causal, window, block_n)
        for b, lengths in enumerate(sequences)
        for i in range(math.ceil(lengths[0] / BLOCK_M))
    ]
    blocks.sort(key=lambda block: -block.num_tiles)
    group = num_heads // num_kv_heads
    step = kv_heads_at_once * group
    order = (
        block._replace(head=head)
        for first in range(0, num_heads, step)
        for block in blocks
        for head in range(first, min(first + step, num_heads))
    )
    return _schedule(order, max(1, min(programs, len(blocks) * num_heads)), start_tiles)


def _schedule(order: Any, programs: int, start_tiles: int) -> torch.Tensor:
    """[turns, programs, fields]: each item goes to the program that is free first."""
    free = [(0, program) for program in range(programs)]
    turns: list[list[Item]] = [[] for _ in range(programs)]
    for one in order:
        time, program = free[0]
        heapq.heapreplace(free, (time + one.num_tiles + start_tiles, program))
        turns[program].append(one)
    result = torch.zeros((max(1, *map(len, turns)), programs, len(Item._fields)), dtype=torch.int32)
    for program, own in enumerate(turns):
        if own:
            result[: len(own), program] = torch.tensor(own, dtype=torch.int32)
    return result


def launch(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, plan: HopperPlan) -> Outputs:
    """Attention of q [total_q, num_heads, d + rope], k [total_kv, num_kv_heads, d + rope], v [total_kv, ..., d]."""
    from .prefill_hopper import prefill_hopper

    head_dim = v.shape[2]
    out = q.new_empty((*q.shape[:2], head_dim))
    outputs = {"out": out}
    if plan.return_lse:
        outputs["lse"] = q.new_empty(q.shape[:2], dtype=torch.float32)
    if len(q) == 0 or len(k) == 0:  # TMA describes no empty tensor
        out.zero_()
        if plan.return_lse:
            outputs["lse"].fill_(-math.inf)
        return outputs
    q_main, k_main = _descriptor(q, 64, head_dim), _descriptor(k, plan.block_n, head_dim)
    q_rope = q_main
    k_rope = k_main
    if plan.rope:
        q_rope, k_rope = _descriptor(q, 64, plan.rope), _descriptor(k, plan.block_n, plan.rope)
    num_turns, programs, _ = plan.items.shape
    prefill_hopper[(programs,)](
        q_main, k_main, _descriptor(v, plan.block_n, head_dim), q_rope, k_rope, plan.items, num_turns,
        out, outputs.get("lse", out), plan.softmax_scale * LOG2_E,
        NUM_HEADS=plan.num_heads, NUM_KV_HEADS=plan.num_kv_heads, BLOCK_N=plan.block_n, HEAD_DIM=head_dim,
        ROPE=plan.rope, STAGES=plan.stages, CAUSAL=plan.causal, WINDOW=plan.window, RETURN_LSE=plan.return_lse,
        LATE_ROUNDING=plan.late_rounding, num_warps=4,
    )  # fmt: skip
    return outputs


def _descriptor(tensor: torch.Tensor, rows: int, columns: int) -> Any:
    """Tiles of [rows, columns] from [tokens, heads * columns of a head]."""
    from triton.experimental.gluon.language import NVMMASharedLayout
    from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

    layout = NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=2)
    return TensorDescriptor.from_tensor(tensor.flatten(1), [rows, columns], layout)
