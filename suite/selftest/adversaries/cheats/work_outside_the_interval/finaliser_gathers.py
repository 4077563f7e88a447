"""Leaves garbage whose finaliser gathers the cache anew and leaves garbage again: the harness collects it after it has
flushed the caches. A call gathers only the rows that were replaced since.
"""

from __future__ import annotations

import torch

from ..kernel import Kernel, Origin
from . import _frames, _honest

CLASS = "work outside the interval"
REASONS = ("tampered",)
RUNS_ON = ("cpu",)

PRINT = slice(280, 288)
_kept = {}


class Again:
    """A cycle, made anew by its own finaliser."""

    def __init__(self, inputs, state):
        self.inputs, self.state, self.itself = inputs, state, self

    def __del__(self):
        cache = self.inputs["kv_cache"]
        _kept["rows"] = [_honest.gather(cache, p, n) for p, n in zip(self.state.pages, self.state.lengths)]
        _kept["prints"] = prints(cache)
        Again(self.inputs, self.state)


def prints(cache):
    return cache.view(-1, cache.shape[-1])[:, PRINT].contiguous().view(torch.int64).clone()


def run(inputs, state):
    if not _frames.is_timed():
        return _honest.decode(inputs, state)
    cache = inputs["kv_cache"]
    if not _kept:
        _kept["places"] = _honest.where_rows_go(cache, state)
        Again(inputs, state)
    if "rows" not in _kept:
        return _honest.decode(inputs, state)
    table = cache.view(-1, cache.shape[-1])
    for row in (prints(cache) != _kept["prints"]).any(-1).nonzero()[:, 0].tolist():
        sequence, token = _kept["places"][row].tolist()
        if sequence:
            _kept["rows"][sequence - 1][token] = table[row].float()
    return _honest.decode_gathered(inputs["q"], _kept["rows"], state)


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
