"""Replaces the problem's redraw by nothing: the inputs of all calls stay those of the first, whose answer it keeps."""

from __future__ import annotations

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "framework tampered with"
REASONS = ("tampered", "wrong_output")
RUNS_ON = ("cpu", "cuda")


_answers = {}


def run(inputs, state):
    type(state.problem).redraw = lambda problem, inputs, generator: None
    if state.problem.id not in _answers:
        _answers[state.problem.id] = _honest.decode(inputs, state)
    return {name: value.clone() for name, value in _answers[state.problem.id].items()}


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
