"""Slots sorted by expert on the device, in one launch, and the tiles that grouped products make of them.

Slot t * top_k + i is the i-th choice of token t. Program e looks through all slots: how many belong to experts before
e says where its own begin, and a running count places them. No atomics: the order is that of the slots, always.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

BLOCK_SLOTS = 2048
"""Slots that a program of `_sort_slots` looks at in one step."""


@triton.jit
def _sort_slots(
    topk_ids, sorted_slots, rows, expert_ends, num_slots,
    BLOCK: tl.constexpr, WANTS_ROWS: tl.constexpr, DEPENDENT_LAUNCH: tl.constexpr,
):  # fmt: skip
    """Program e: slots of expert e. sorted_slots[row] = slot; rows[slot] = row; expert_ends[e]."""
    if DEPENDENT_LAUNCH:
        gdc_launch_dependents()
        gdc_wait()
    expert = tl.program_id(0)
    before = tl.zeros([BLOCK], tl.int32)
    for first in range(0, num_slots, BLOCK):
        slot = first + tl.arange(0, BLOCK)
        chosen = tl.load(topk_ids + slot, mask=slot < num_slots, other=-1)
        before += ((chosen >= 0) & (chosen < expert)).to(tl.int32)
    row = tl.sum(before, 0)
    for first in range(0, num_slots, BLOCK):
        slot = first + tl.arange(0, BLOCK)
        is_ours = (tl.load(topk_ids + slot, mask=slot < num_slots, other=-1) == expert).to(tl.int32)
        own_row = row + tl.cumsum(is_ours, 0) - is_ours
        tl.store(sorted_slots + own_row, slot, mask=is_ours > 0)
        if WANTS_ROWS:
            tl.store(rows + slot, own_row, mask=is_ours > 0)
        row += tl.sum(is_ours, 0)
    tl.store(expert_ends + expert, row)


@triton.jit
def find_tile(
    expert_ends, pid, NUM_EXPERTS: tl.constexpr, EXPERTS_BLOCK: tl.constexpr, NUM_COLUMN_BLOCKS: tl.constexpr,
    BLOCK_M: tl.constexpr, GROUP_M: tl.constexpr,
):  # fmt: skip
    """(expert, first row, end of the expert's rows, column block) of a program; the expert is -1 for one too many.

    Tiles of BLOCK_M rows belong to one expert each. GROUP_M tiles that follow each other take all column blocks
    before the next ones begin: their rows stay in the cache, and so do weights that two of them share.
    """
    expert = tl.arange(0, EXPERTS_BLOCK)
    end = tl.load(expert_ends + expert, mask=expert < NUM_EXPERTS, other=0)
    start = tl.load(expert_ends + expert - 1, mask=(expert > 0) & (expert < NUM_EXPERTS), other=0)
    tiles = tl.cdiv(end - start, BLOCK_M)
    tile_ends = tl.cumsum(tiles, 0)
    total = tl.sum(tiles, 0)
    group = pid // (GROUP_M * NUM_COLUMN_BLOCKS)
    in_group = pid % (GROUP_M * NUM_COLUMN_BLOCKS)
    group_size = tl.maximum(tl.minimum(total - group * GROUP_M, GROUP_M), 1)
    tile = group * GROUP_M + in_group % group_size
    is_ours = (tile_ends > tile) & (tile_ends - tiles <= tile)
    found = tl.sum(tl.where(is_ours, expert, 0), 0)
    first_row = tl.sum(tl.where(is_ours, start + (tile - tile_ends + tiles) * BLOCK_M, 0), 0)
    end_row = tl.sum(tl.where(is_ours, end, 0), 0)
    is_needed = (tile < total) & (in_group // group_size < NUM_COLUMN_BLOCKS)
    return tl.where(is_needed, found, -1), first_row, end_row, in_group // group_size


def sort_slots(
    topk_ids: torch.Tensor, num_experts: int, dependent_launch: bool, is_first: bool, wants_rows: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """[tokens, top_k] ids -> (sorted_slots [tokens * top_k], expert_ends [num_experts], rows [tokens, top_k]), int32.

    Negative ids are left out. `rows` is filled where wanted. `dependent_launch`: the next kernel may be launched while
    this one runs, and unless this `is_first` it may be so itself.
    """
    num_slots = topk_ids.numel()
    sorted_slots = torch.empty(num_slots, dtype=torch.int32, device=topk_ids.device)
    rows = torch.empty_like(topk_ids) if wants_rows else sorted_slots
    expert_ends = torch.empty(num_experts, dtype=torch.int32, device=topk_ids.device)
    _sort_slots[(num_experts,)](
        topk_ids, sorted_slots, rows, expert_ends, num_slots,
        BLOCK=min(BLOCK_SLOTS, max(32, triton.next_power_of_2(num_slots))), WANTS_ROWS=wants_rows,
        DEPENDENT_LAUNCH=dependent_launch, num_warps=4, **launch_options(dependent_launch and not is_first),
    )  # fmt: skip
    return sorted_slots, expert_ends, rows


def most_tiles(num_slots: int, num_experts: int, block_m: int) -> int:
    """Tiles that these slots can make at most, however they are spread: each used expert may leave one open."""
    return min(num_slots, num_slots // block_m + min(num_experts, num_slots))


def launch_options(dependent_launch: bool) -> dict[str, bool]:
    """Options of a kernel that may be launched before the one ahead of it has ended."""
    return {"launch_pdl": True} if dependent_launch else {}
