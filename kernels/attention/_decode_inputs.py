"""Inputs of paged decode: caches in pages of random order, stale values around them, and edits of what is in them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ..paging import draw_block_table
from ..problem import EDITED_ROWS, Edit, Inputs
from ._decode_problem import E4M3_MOST

if TYPE_CHECKING:
    from ._decode_problem import PagedDecode

STALE = 200.0
"""Within both e4m3 types."""
Q_AND_KV_SCALES = {"normal": (1.0, 1.0), "peaked": (4.0, 1.0), "flat": (0.1, 0.1)}


def decode_inputs(problem: PagedDecode, seed: int, device: str, distribution: str) -> Inputs:
    """All inputs of problem.py; rows past each sequence's end are large finite values, which a dropped mask reads."""
    dtype, kv_dtype = getattr(torch, problem.dtype), getattr(torch, problem.kv_dtype)
    q_shape = (problem.batch, problem.seq_len_q, problem.num_heads, problem.head_dim)
    page_shape = (problem.page_size, problem.num_kv_heads, problem.head_dim)
    if device == "meta":
        cache_shape = (problem.batch * problem.max_pages, *page_shape)
        return {
            "q": torch.empty(q_shape, dtype=dtype, device=device),
            "k_cache": torch.empty(cache_shape, dtype=kv_dtype, device=device),
            "v_cache": torch.empty(cache_shape, dtype=kv_dtype, device=device),
            "block_table": torch.empty((problem.batch, problem.max_pages), dtype=torch.int32, device=device),
            "seq_lens": torch.empty((problem.batch,), dtype=torch.int32, device=device),
        }
    q_scale, kv_scale = Q_AND_KV_SCALES[distribution]
    seq_lens = torch.tensor(problem.drawn_lengths(), dtype=torch.int32)
    table_generator = torch.Generator().manual_seed(seed + 1)
    block_table, num_pages = draw_block_table(seq_lens, problem.page_size, problem.max_pages, table_generator)
    generator = torch.Generator(device).manual_seed(seed)
    inputs = {"q": torch.empty(q_shape, dtype=dtype, device=device).normal_(0, q_scale, generator=generator)}
    for name, scale in (("k_cache", problem.k_scale), ("v_cache", problem.v_scale)):
        cache = _draw(num_pages * problem.page_size, page_shape[1:], kv_scale / scale, kv_dtype, generator)
        inputs[name] = cache.view(num_pages, *page_shape)
        _spoil_unused_rows(inputs[name], block_table, seq_lens)
    return {**inputs, "block_table": block_table.to(device), "seq_lens": seq_lens.to(device)}


def _draw(
    tokens: int, shape: tuple[int, ...], scale: float, dtype: torch.dtype, generator: torch.Generator
) -> torch.Tensor:
    """[tokens, *shape] of N(0, scale), drawn in slices so that an fp8 cache needs no bf16 copy of itself."""
    out = torch.empty((tokens, *shape), dtype=dtype, device=generator.device)
    drawn_as = torch.bfloat16 if dtype.itemsize == 1 else dtype
    for part in out.split(1 << 18):
        drawn = torch.empty_like(part, dtype=drawn_as).normal_(0, scale, generator=generator)
        part.copy_(drawn.clamp_(-E4M3_MOST, E4M3_MOST) if dtype.itemsize == 1 else drawn)
    return out


def _spoil_unused_rows(cache: torch.Tensor, block_table: torch.Tensor, seq_lens: torch.Tensor) -> None:
    page_size = cache.shape[1]
    for row, length in enumerate(seq_lens.tolist()):
        if length % page_size:
            cache[int(block_table[row, length // page_size]), length % page_size :] = STALE


def most_attended_tokens(problem: PagedDecode, inputs: Inputs, generator: torch.Generator) -> list[Edit]:
    """In every part of every sequence, for every KV head, one token becomes the one that some query head of the group
    attends to most, with the value's sign changed. The first query sees all of these tokens."""
    q, k_cache, v_cache = inputs["q"], inputs["k_cache"], inputs["v_cache"]
    where, group, num_kv_heads = q.device, problem.group, problem.num_kv_heads
    visible = inputs["seq_lens"].long() - problem.seq_len_q + 1  # tokens that the first query sees; prefix and root
    parts = torch.arange(EDITED_ROWS, device=where)
    first, end = (visible[:, None] * parts) // EDITED_ROWS, (visible[:, None] * (parts + 1)) // EDITED_ROWS
    fraction = torch.rand(first.shape, device=where, generator=generator)
    token = first + ((end - first) * fraction).long().clamp_max((end - first - 1).clamp_min(0))
    sequence, part = torch.nonzero(end > first, as_tuple=True)
    token = token[sequence, part]
    page = inputs["block_table"][sequence, token // problem.page_size].long()
    slot = page * problem.page_size + token % problem.page_size  # [n]
    kv_head = torch.arange(num_kv_heads, device=where)
    rows = (slot[:, None] * num_kv_heads + kv_head).flatten()  # [n * num_kv_heads]
    member = torch.randint(group, (len(slot), num_kv_heads), device=where, generator=generator)
    # A random head's logits have the variance scale^2 |q|^2 and exp of them the mean exp(variance / 2).
    query = q[sequence[:, None], 0, kv_head * group + member].float()  # [n, num_kv_heads, head_dim]
    square = query.square().sum(-1, keepdim=True)
    logit = visible[sequence, None, None].log() + problem.softmax_scale**2 * square / 2 + 1
    keys = query * logit / (problem.softmax_scale * square * problem.k_scale)
    keys = keys.clamp(-E4M3_MOST, E4M3_MOST) if problem.is_fp8 else keys
    values = -_rows(v_cache)[rows].view(v_cache.dtype).float()
    return [
        Edit("k_cache", rows, keys.flatten(0, 1).to(k_cache.dtype)),
        Edit("v_cache", rows, values.to(v_cache.dtype)),
    ]


def _rows(cache: torch.Tensor) -> torch.Tensor:
    """[tokens * num_kv_heads, bytes of a row]: 8-bit floats cannot be indexed."""
    return cache.view(-1, cache.shape[-1]).view(torch.uint8)
