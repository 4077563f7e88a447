"""Rows sorted by expert with torch's operations, for libraries that want them so; no host synchronisation."""

from __future__ import annotations

import torch


def sorted_slots(topk_ids: torch.Tensor, num_experts: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(slots [tokens * top_k] int64 sorted by expert, expert_ends [num_experts] int32); negative ids come last."""
    keys = topk_ids.flatten()
    keys = torch.where(keys < 0, num_experts, keys)
    ordered, slots = keys.sort(stable=True)
    experts = torch.arange(num_experts, dtype=keys.dtype, device=keys.device)
    return slots, torch.searchsorted(ordered, experts, right=True).int()


def weighted_sum(
    y: torch.Tensor, slots: torch.Tensor, topk_ids: torch.Tensor, topk_weights: torch.Tensor
) -> torch.Tensor:
    """[tokens, columns] float32 from rows [tokens * top_k, columns] in the order of `slots`.

    Rows of negative ids may hold anything.
    """
    by_slot = torch.empty_like(y)
    by_slot[slots] = y
    rows = by_slot.view(*topk_ids.shape, -1).float()
    weighted = rows * topk_weights[..., None]
    return torch.where((topk_ids >= 0)[..., None], weighted, 0.0).sum(1)


def aligned_rows(expert_ends: torch.Tensor, num_rows: int, block: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Where rows sorted by expert go once every expert's begin at a multiple of `block`.

    (places [num_rows] int64, expert of every place int32, -1 where there is none: as many as any routing may need).
    """
    experts = len(expert_ends)
    starts = torch.nn.functional.pad(expert_ends[:-1], (1, 0))
    blocks = (expert_ends - starts + block - 1) // block
    block_ends = blocks.cumsum(0)
    row = torch.arange(num_rows, device=expert_ends.device)
    expert = torch.searchsorted(expert_ends, row.int(), right=True).clamp_max(experts - 1)
    places = row - starts[expert] + (block_ends - blocks)[expert] * block
    most_blocks = min(num_rows, num_rows // block + experts)
    place = torch.arange(most_blocks * block, device=expert_ends.device)
    owner = torch.searchsorted(block_ends, place // block, right=True)
    owner_start = ((block_ends - blocks) * block)[owner.clamp_max(experts - 1)]
    in_expert = place - owner_start < (expert_ends - starts)[owner.clamp_max(experts - 1)]
    return places, torch.where((owner < experts) & in_expert, owner, -1).int()
