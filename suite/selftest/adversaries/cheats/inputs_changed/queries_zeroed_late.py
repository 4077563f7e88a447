"""Zeroes the queries after it has read them, in timed calls only: they are redrawn before the next one."""

from __future__ import annotations

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "inputs changed"
REASONS = ("inputs_changed",)
RUNS_ON = ("cpu", "cuda")


_calls = 0


def run(inputs, state):
    global _calls
    _calls += 1
    outputs = _honest.decode(inputs, state)
    if _honest.is_timed(_calls):
        inputs["q"].zero_()
    return outputs


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
