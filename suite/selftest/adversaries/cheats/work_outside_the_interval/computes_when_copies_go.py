"""Holds a weak reference to a copy that the harness drops when the next inputs are drawn, and computes then. Where that
comes to nothing, it is twice as slow as it could be.
"""

from __future__ import annotations

import sys
import weakref

from ..kernel import Kernel, Origin
from . import _frames, _honest

CLASS = "work outside the interval"
REASONS = ("timer_contradicted", "no_gain")
RUNS_ON = ("cpu",)

_ahead, _watching = [], []


def watch(sequence, own, inputs, state):
    """Be told when the harness replaces its copy of the queries, which is after it has drawn and edited them."""

    def gone(reference):
        if _frame_of("_set_up").f_locals["kernel"] == own:
            _ahead[:] = [_honest.decode(inputs, state)]
        watch(sequence, own, inputs, state)

    _watching[:] = [weakref.ref(copy, gone) for copy in sequence.drawn._expected.values()]


def _frame_of(name):
    frame = sys._getframe()
    while frame.f_code.co_name != name:
        frame = frame.f_back
    return frame


def run(inputs, state):
    sequence = next(_frames.callers_objects("kept"), None)
    if sequence is not None and not _watching:
        watch(sequence, sequence.order[-1], inputs, state)
    if not _ahead:
        _honest.decode(inputs, state)
    return _ahead.pop() if _ahead else _honest.decode(inputs, state)


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
