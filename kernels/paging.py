"""Paged caches: a table of pages drawn at random, and the forms of it that libraries want."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from .problem import Inputs


def draw_block_table(
    seq_lens: torch.Tensor, page_size: int, max_pages: int, generator: torch.Generator
) -> tuple[torch.Tensor, int]:
    """Pages in random order, none shared between sequences: (table [batch, max_pages] int32, number of pages).

    `seq_lens` [batch] is on the CPU, as is the table. Entries past a sequence's end are valid but unrelated pages.
    """
    pages_used = (seq_lens + page_size - 1) // page_size
    used = int(pages_used.sum())
    num_pages = max(1, used)
    order = torch.randperm(num_pages, generator=generator, dtype=torch.int32)
    table = torch.randint(0, num_pages, (len(seq_lens), max_pages), generator=generator, dtype=torch.int32)
    table[torch.arange(max_pages) < pages_used[:, None]] = order[:used]
    return table, num_pages


def packed_pages(plan_inputs: Inputs, page_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(indptr [batch + 1] int32, pages [indptr[-1]] int32): sequence b holds pages[indptr[b] : indptr[b + 1]]."""
    block_table, seq_lens = plan_inputs["block_table"], plan_inputs["seq_lens"]
    pages_used = (seq_lens + page_size - 1) // page_size
    in_use = torch.arange(block_table.shape[1], device=block_table.device) < pages_used[:, None]
    return indptr(pages_used), block_table[in_use]


def packed_tokens(plan_inputs: Inputs, page_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The same with pages of one token: pages are rows of the cache viewed as [num_pages * page_size, ...]."""
    block_table, seq_lens = plan_inputs["block_table"], plan_inputs["seq_lens"]
    offsets = torch.arange(page_size, dtype=torch.int32, device=block_table.device)
    rows = (block_table[:, :, None] * page_size + offsets).flatten(1)  # [batch, max_pages * page_size]
    in_use = torch.arange(rows.shape[1], device=rows.device) < seq_lens[:, None]
    return indptr(seq_lens), rows[in_use]


def indptr(lengths: torch.Tensor) -> torch.Tensor:
    """[n] counts -> [n + 1] int32 offsets, beginning with 0."""
    return torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).int()


def uniform_indptr(count: int, step: int, device: torch.device) -> torch.Tensor:
    """0, step, 2 * step ... [count + 1] int32: where each sequence's queries begin."""
    return torch.arange(0, (count + 1) * step, step, dtype=torch.int32, device=device)
