"""Inputs of tree attention: those of paged decode, and a random tree of drafts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ..problem import Inputs
from ._decode_inputs import decode_inputs
from ._decode_problem import E4M3_MOST

if TYPE_CHECKING:
    from ._tree_problem import TreeDecode

DRAFT_KEYS = 2.5
"""How much larger than others the keys of drafts are: e^(2.5^2 / 2) is 23 times the mean weight of another token."""


def tree_inputs(problem: TreeDecode, seed: int, device: str, distribution: str) -> Inputs:
    """All inputs of `_tree_problem`."""
    inputs = decode_inputs(problem, seed, device, distribution)
    num_drafts = problem.seq_len_q
    if device == "meta":
        return {**inputs, "tree_mask": torch.empty((num_drafts, num_drafts), dtype=torch.bool, device=device)}
    _enlarge_draft_keys(problem, inputs)
    mask = tree_mask(drawn_parents(num_drafts, torch.Generator().manual_seed(seed + 2)))
    return {**inputs, "tree_mask": mask.to(device)}


def drawn_parents(num_nodes: int, generator: torch.Generator) -> list[int]:
    """The parent of every node but the root (node 0: -1), in breadth-first order: parents never decrease."""
    uniform = torch.rand(num_nodes, generator=generator).tolist()
    parents = [-1]
    for node in range(1, num_nodes):
        first = max(0, parents[-1])
        parents.append(min(node - 1, first + int(uniform[node] * 3)))  # its predecessor's, or one of the next two
    return parents


def tree_mask(parents: list[int]) -> torch.Tensor:
    """[nodes, nodes] bool: row i holds node i and its ancestors."""
    mask = torch.eye(len(parents), dtype=torch.bool)
    for node, parent in enumerate(parents):
        if parent >= 0:
            mask[node] |= mask[parent]
    return mask


def _enlarge_draft_keys(problem: TreeDecode, inputs: Inputs) -> None:
    cache, page_size = inputs["k_cache"], problem.page_size
    lengths = inputs["seq_lens"].tolist()
    drafts = [(row, token) for row, n in enumerate(lengths) for token in range(max(0, n - problem.seq_len_q), n)]
    if not drafts:
        return
    row, token = torch.tensor(drafts, device=cache.device).unbind(1)
    page, offset = inputs["block_table"][row, token // page_size].long(), token % page_size
    as_bytes = cache.view(torch.uint8)  # 8-bit floats cannot be indexed
    keys = as_bytes[page, offset].view(cache.dtype).float() * DRAFT_KEYS
    keys = keys.clamp(-E4M3_MOST, E4M3_MOST) if problem.is_fp8 else keys
    as_bytes[page, offset] = keys.to(cache.dtype).view(torch.uint8)
