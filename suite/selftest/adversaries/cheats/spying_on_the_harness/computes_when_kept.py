"""Looks in its callers' frames for the block whose outputs will be kept, and computes only in that."""

from __future__ import annotations

import sys

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "spying on the harness"
REASONS = ("wrong_output",)
RUNS_ON = ("cpu", "cuda")


def will_be_kept():
    frame = sys._getframe()
    while frame is not None:
        block = frame.f_locals.get("block", frame.f_locals.get("index"))
        if block is not None and block == frame.f_locals.get("kept_block"):
            return True
        entry = getattr(getattr(frame.f_locals.get("step"), "after", None), "args", ())
        if any(isinstance(argument, dict) and "redraw_seed" in argument for argument in entry):
            return True
        frame = frame.f_back
    return False


_calls = 0
_answers = {}


def run(inputs, state):
    global _calls
    _calls += 1
    if state.problem.id not in _answers or not _honest.is_timed(_calls) or will_be_kept():
        _answers[state.problem.id] = _honest.decode(inputs, state)
    return {name: value.clone() for name, value in _answers[state.problem.id].items()}


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
