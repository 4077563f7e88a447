"""Computes one call in forty and repeats its answer in between."""

from __future__ import annotations

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "stale outputs"
REASONS = ("wrong_output",)
RUNS_ON = ("cpu", "cuda")


EVERY = 40
_calls = 0
_answers = {}


def run(inputs, state):
    global _calls
    _calls += 1
    if _calls % EVERY == 1 or state.problem.id not in _answers:
        _answers[state.problem.id] = _honest.decode(inputs, state)
    return {name: value.clone() for name, value in _answers[state.problem.id].items()}


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
