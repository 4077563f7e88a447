"""Computes the first calls of a process, then returns the last answer: whoever checks first and times later is
content.
"""

from __future__ import annotations

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "stale outputs"
REASONS = ("wrong_output",)
RUNS_ON = ("cpu", "cuda")


_calls = 0
_answers = {}


def run(inputs, state):
    global _calls
    _calls += 1
    if state.problem.id not in _answers or not _honest.is_timed(_calls):
        _answers[state.problem.id] = _honest.decode(inputs, state)
    return {name: value.clone() for name, value in _answers[state.problem.id].items()}


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
