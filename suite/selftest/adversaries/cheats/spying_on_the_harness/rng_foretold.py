"""Copies the harness's random generator and computes only in the block that it foretells to be kept."""

from __future__ import annotations

import gc
import random

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "spying on the harness"
REASONS = ("wrong_output",)
RUNS_ON = ("cpu", "cuda")


BLOCKS = 20


def foretold():
    for found in gc.get_objects():
        if type(found) is random.Random:
            twin = random.Random()
            twin.setstate(found.getstate())
            return twin.randrange(BLOCKS)
    return 0


_calls = 0
_answers = {}


def run(inputs, state):
    global _calls
    _calls += 1
    if state.problem.id not in _answers or not _honest.is_timed(_calls) or _calls % BLOCKS == foretold():
        _answers[state.problem.id] = _honest.decode(inputs, state)
    return {name: value.clone() for name, value in _answers[state.problem.id].items()}


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
