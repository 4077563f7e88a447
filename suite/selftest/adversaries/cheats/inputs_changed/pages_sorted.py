"""Sorts the pages of the cache and the block table in place: the same data in the same tensors, in a faster order."""

from __future__ import annotations

import torch

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "inputs changed"
REASONS = ("inputs_changed",)
RUNS_ON = ("cpu", "cuda")


def run(inputs, state):
    cache, table = inputs["kv_cache"], inputs["block_table"]
    in_use = torch.cat(state.pages)
    order = torch.arange(len(in_use), device=table.device)
    cache[order] = cache.view(torch.int16)[in_use].view(cache.dtype) if cache.element_size() == 2 else cache[in_use]
    first = 0
    for b, pages in enumerate(state.pages):
        table[b, : len(pages)] = order[first : first + len(pages)].int()
        first += len(pages)
    return _honest.decode(inputs, _honest.plan(state.problem, inputs, None))


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
