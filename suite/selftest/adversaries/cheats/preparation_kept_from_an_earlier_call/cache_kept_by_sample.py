"""Keeps the gathered cache as long as every 509th row of it is what it was, but for signs."""

from __future__ import annotations

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "preparation kept from an earlier call"
REASONS = ("wrong_output",)
RUNS_ON = ("cpu", "cuda")


_kept = {}


def prepare(inputs, state):
    cache = inputs["kv_cache"]
    return [_honest.gather(cache, pages, n) for pages, n in zip(state.pages, state.lengths)]


def run(inputs, state):
    key = (state.problem.id, float(inputs["kv_cache"].flatten(0, 1)[::509].double().abs().sum()))
    if key not in _kept:
        _kept[key] = prepare(inputs, state)
    return _honest.decode_gathered(inputs["q"], _kept[key], state)


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
