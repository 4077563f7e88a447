"""Keeps answers by the identity of the query tensor. Seen at tensara (#238)."""

from __future__ import annotations

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "stale outputs"
REASONS = ("wrong_output", "wrong_form")  # what is kept for an id may be of another size
RUNS_ON = ("cpu", "cuda")


_answers = {}


def run(inputs, state):
    key = id(inputs["q"])
    if key not in _answers:
        _answers[key] = _honest.decode(inputs, state)
    return {name: value.clone() for name, value in _answers[key].items()}


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
