"""Tokens that a timed call has not seen: what a kernel kept of an earlier cache gives a wrong answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ..problem import EDITED_ROWS, Edit, Inputs

if TYPE_CHECKING:
    from .problem import MLADecode


def most_attended_tokens(problem: MLADecode, inputs: Inputs, generator: torch.Generator) -> list[Edit]:
    """In every part of every sequence one token becomes the one that some head of the first query attends to most."""
    q = inputs["q"]
    visible = inputs["seq_lens"].long() - problem.seq_len_q + 1  # tokens that the first query sees
    parts = torch.arange(EDITED_ROWS, device=q.device)
    first, end = (visible[:, None] * parts) // EDITED_ROWS, (visible[:, None] * (parts + 1)) // EDITED_ROWS
    fraction = torch.rand(first.shape, device=q.device, generator=generator)
    token = first + ((end - first) * fraction).long().clamp_max((end - first - 1).clamp_min(0))
    head = torch.randint(problem.num_heads, first.shape, device=q.device, generator=generator)
    sequence, part = torch.nonzero(end > first, as_tuple=True)
    token, head = token[sequence, part], head[sequence, part]
    # A random head's logits have the variance scale^2 |q|^2 and exp of them the mean exp(variance / 2).
    query = q[sequence, 0, head].float()
    square = query.square().sum(-1, keepdim=True)
    logit = visible[sequence, None].log() + problem.softmax_scale**2 * square / 2 + 1
    values = query * logit / (problem.softmax_scale * square)
    page = inputs["block_table"][sequence, token // problem.page_size].long()
    return [Edit("kv_cache", page * problem.page_size + token % problem.page_size, values.to(inputs["kv_cache"].dtype))]
