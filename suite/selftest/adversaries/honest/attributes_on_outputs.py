"""Notes on its outputs how they were computed, in attributes that hide nothing of a tensor's."""

from __future__ import annotations

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "memory"
RUNS_ON = ("cpu", "cuda")


def run(inputs, state):
    outputs = _honest.decode(inputs, state)
    for name, output in outputs.items():
        output.computed_by, output.called = __name__, name
    return outputs


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
