"""Properties of gathering."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from ..problem import Inputs
from ..property import Derived
from ._gather_problem import Gather

if TYPE_CHECKING:
    import torch


def sequence_order(problem: Gather, inputs: Inputs, generator: torch.Generator) -> Derived:
    """Sequences in another order come out in that order."""
    import torch

    starts = inputs["cu_seqlens"]
    order = torch.randperm(problem.batch, generator=generator).to(starts.device)
    lengths = starts.diff()
    moved_starts = torch.nn.functional.pad(lengths[order].cumsum(0), (1, 0)).int()
    rows = [torch.arange(int(starts[b]), int(starts[b + 1]), device=starts.device) for b in order.tolist()]
    case = (problem, {**inputs, "block_table": inputs["block_table"][order].contiguous(), "cu_seqlens": moved_starts})
    return Derived((case,), lambda base, derived: (derived[0], {"out": base["out"][torch.cat(rows)]}))


def page_order(problem: Gather, inputs: Inputs, generator: torch.Generator) -> Derived:
    """Pages at other places, with the block table to match, change nothing."""
    import torch

    cache = inputs["cache"]
    order = torch.randperm(len(cache), generator=generator).to(cache.device)
    table = order.argsort().int()[inputs["block_table"].long()]
    case = (problem, {**inputs, "cache": _by_bytes(cache, lambda pages: pages[order]), "block_table": table})
    return Derived((case,), lambda base, derived: (derived[0], base))


def unused_pages(problem: Gather, inputs: Inputs, generator: torch.Generator) -> Derived:
    """What lies past a sequence's end, and which pages the table names there, changes nothing."""
    import torch

    cache, table, page_size = inputs["cache"], inputs["block_table"].clone(), problem.page_size
    used = torch.zeros(len(cache) * page_size, dtype=torch.bool, device=cache.device)
    for b, length in enumerate(inputs["cu_seqlens"].diff().tolist()):
        token = torch.arange(length, device=cache.device)
        used[table[b, token // page_size].long() * page_size + token % page_size] = True
        rest = table[b, -(-length // page_size) :]
        rest.copy_(torch.randint(len(cache), rest.shape, generator=generator, dtype=torch.int32))
    spoiled = _by_bytes(cache, lambda pages: torch.where(used.view(*pages.shape[:2], 1, 1), pages, pages ^ 0x11))
    case = (problem, {**inputs, "cache": spoiled, "block_table": table})
    return Derived((case,), lambda base, derived: (derived[0], base))


def pages_of_one(problem: Gather, inputs: Inputs, generator: torch.Generator) -> Derived:
    """The same cache as pages of one token changes nothing."""
    import torch

    table, cache = inputs["block_table"], inputs["cache"]
    tokens = torch.arange(problem.page_size, dtype=torch.int32, device=table.device)
    rows = (table[:, :, None] * problem.page_size + tokens).flatten(1)
    variant = replace(problem, page_size=1, num_pages=len(cache) * problem.page_size)
    rows = rows[:, : variant.max_pages].contiguous()
    case = (variant, {**inputs, "cache": cache.view(-1, 1, *cache.shape[2:]), "block_table": rows})
    return Derived((case,), lambda base, derived: (derived[0], base))


def fewer_heads(problem: Gather, inputs: Inputs, generator: torch.Generator) -> Derived | None:
    """Some of the heads alone give their part."""
    import torch

    if problem.num_kv_heads < 2:
        return None
    count = int(torch.randint(1, problem.num_kv_heads, (), generator=generator))
    part = _by_bytes(inputs["cache"], lambda pages: pages[:, :, :count])
    case = (replace(problem, num_kv_heads=count), {**inputs, "cache": part})
    return Derived((case,), lambda base, derived: (derived[0], {"out": base["out"][:, :count]}))


def doubled_values(problem: Gather, inputs: Inputs, generator: torch.Generator) -> Derived:
    """Twice the scale, or without one twice the values, gives twice the output."""
    if problem.is_fp8:
        case = (replace(problem, kv_scale=2 * problem.kv_scale), dict(inputs))
    else:
        case = (problem, {**inputs, "cache": inputs["cache"] * 2})
    return Derived((case,), lambda base, derived: (derived[0], {"out": base["out"] * 2}))


def _by_bytes(cache: torch.Tensor, change: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """8-bit floats know few operations: pages are changed as bytes, [num_pages, page_size, heads, bytes]."""
    import torch

    return change(cache.view(torch.uint8)).contiguous().view(cache.dtype)
