"""Returns the same memory in every call: an answer that was kept changes under whoever keeps it."""

from __future__ import annotations

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "outputs of the wrong form"
REASONS = ("wrong_form", "wrong_output")
RUNS_ON = ("cpu", "cuda")


_buffers = {}


def run(inputs, state):
    if state.problem.id not in _buffers:
        _buffers[state.problem.id] = _honest.empty_outputs(inputs["q"])
    return _honest.decode(inputs, state, _buffers[state.problem.id])


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
