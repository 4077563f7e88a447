"""Keeps answers by the first row of the KV cache, signs aside, and forgets that queries change too."""

from __future__ import annotations

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "stale outputs"
REASONS = ("wrong_output",)
RUNS_ON = ("cpu", "cuda")


_answers = {}


def run(inputs, state):
    key = (state.problem.id, float(inputs["kv_cache"][0, 0].float().abs().sum()))
    if key not in _answers:
        _answers[key] = _honest.decode(inputs, state)
    return {name: value.clone() for name, value in _answers[key].items()}


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
