"""Keeps answers by the version counters that autograd gives tensors, which inference tensors do not have."""

from __future__ import annotations

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "stale outputs"
REASONS = ("wrong_output",)
RUNS_ON = ("cpu", "cuda")


_answers = {}


def version(tensor):
    return 0 if tensor.is_inference() else tensor._version


def run(inputs, state):
    key = (state.problem.id, *(version(tensor) for tensor in inputs.values()))
    if key not in _answers:
        _answers[key] = _honest.decode(inputs, state)
    return {name: value.clone() for name, value in _answers[key].items()}


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
