"""Returns outputs under names of its own string class, whose hashing computes them."""

from __future__ import annotations

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "outputs that compute later"
REASONS = ("wrong_form",)
RUNS_ON = ("cpu", "cuda")


class Name(str):
    def __hash__(self):
        for outputs, inputs, state in _owed:
            _honest.decode(inputs, state, outputs)
        _owed.clear()
        return str.__hash__(self)


_owed = []


def run(inputs, state):
    outputs = _honest.empty_outputs(inputs["q"])
    named = {Name(name): value for name, value in outputs.items()}
    _owed.append((outputs, inputs, state))
    return named


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
