"""Keeps answers by the first elements of each input, of which the queries' are rounded."""

from __future__ import annotations

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "stale outputs"
REASONS = ("wrong_output",)
RUNS_ON = ("cpu", "cuda")


_answers = {}


def run(inputs, state):
    key = tuple(tuple(round(float(x)) // 8 for x in tensor.flatten()[:4]) for tensor in inputs.values())
    if key not in _answers:
        _answers[key] = _honest.decode(inputs, state)
    return {name: value.clone() for name, value in _answers[key].items()}


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
