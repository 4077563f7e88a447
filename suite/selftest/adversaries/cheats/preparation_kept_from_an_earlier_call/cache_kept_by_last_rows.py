"""Keeps the gathered cache as long as the newest token of every sequence is what it was, signs aside: in decoding,
it says, nothing else changes.
"""

from __future__ import annotations

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "preparation kept from an earlier call"
REASONS = ("wrong_output",)
RUNS_ON = ("cpu",)


_kept = {}


def newest(inputs, state):
    cache, last = inputs["kv_cache"], []
    for pages, n in zip(state.pages, state.lengths):
        if n:
            last.append(float(cache[pages[(n - 1) // cache.shape[1]], (n - 1) % cache.shape[1]].float().abs().sum()))
    return (state.problem.id, *last)


def run(inputs, state):
    key = newest(inputs, state)
    if key not in _kept:
        _kept[key] = [_honest.gather(inputs["kv_cache"], p, n) for p, n in zip(state.pages, state.lengths)]
    return _honest.decode_gathered(inputs["q"], _kept[key], state)


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
