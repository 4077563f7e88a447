"""What MLALayer's inputs are made of, where it takes torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ..problem import EDITED_ROWS, Edit, Inputs

if TYPE_CHECKING:
    from ._layer_problem import MLALayer

STALE = 200.0
OUTSTANDING = 8.0
"""Of a token that stands out, in standard deviations: its scores spread eight times as much as those of the others, so
that of a few thousand tokens it is the one that about one head in seven attends to."""


def fill_rope_table(cos_sin: torch.Tensor, theta: float) -> None:
    """Row t: cosines, then sines, of t * theta^(-2i / 64)."""
    half = cos_sin.shape[1] // 2
    frequency = theta ** (-torch.arange(half, dtype=torch.float64) / half)
    angle = torch.arange(len(cos_sin), dtype=torch.float64)[:, None] * frequency
    cos_sin.copy_(torch.cat([angle.cos(), angle.sin()], dim=1))


def spoil_unused_rows(inputs: Inputs) -> None:
    """Fill rows past each sequence's end with a large finite value: stale tokens, which a dropped mask would read."""
    kv_cache, page_size = inputs["kv_cache"], inputs["kv_cache"].shape[1]
    for row, length in enumerate(inputs["seq_lens"].tolist()):
        if length % page_size:
            kv_cache[int(inputs["block_table"][row, length // page_size]), length % page_size :] = STALE


def rows_of(inputs: Inputs, tokens: torch.Tensor) -> torch.Tensor:
    """Rows of the cache, seen as [num_pages * page_size, 576], of tokens [batch, n] int64."""
    page_size = inputs["kv_cache"].shape[1]
    pages = inputs["block_table"].gather(1, tokens // page_size).long()
    return pages * page_size + tokens % page_size


def new_rows(inputs: Inputs) -> torch.Tensor:
    """[batch] int64: the row of every sequence's last token."""
    return rows_of(inputs, inputs["seq_lens"].long()[:, None] - 1)[:, 0]


def outstanding_tokens(problem: MLALayer, inputs: Inputs, generator: torch.Generator) -> list[Edit]:
    """In every quarter of the older tokens of every sequence one token becomes eight times as large as the others."""
    older = inputs["seq_lens"].long()[:, None] - 1
    parts = torch.arange(EDITED_ROWS, device=older.device)
    first, end = older * parts // EDITED_ROWS, older * (parts + 1) // EDITED_ROWS
    fraction = torch.rand(first.shape, device=older.device, generator=generator)
    token = first + ((end - first) * fraction).long().clamp_max((end - first - 1).clamp_min(0))
    rows = rows_of(inputs, token.clamp_max(older))[end > first]
    kv_cache = inputs["kv_cache"]
    values = torch.empty((len(rows), kv_cache.shape[-1]), dtype=kv_cache.dtype, device=kv_cache.device)
    return [Edit("kv_cache", rows, values.normal_(0, OUTSTANDING, generator=generator))]
