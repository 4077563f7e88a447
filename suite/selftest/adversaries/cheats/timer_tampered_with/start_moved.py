"""Moves the moment that the timer noted before the call: a trace function changes the timer's variables between two of
its lines, and takes itself off.
"""

from __future__ import annotations

import sys

from ..kernel import Kernel, Origin
from . import _frames, _honest

CLASS = "timer tampered with"
REASONS = ("timer_contradicted", "outside_interval", "tampered")
RUNS_ON = ("cpu",)


def moved(frame, event, arg):
    """Of the timer's frame, what it is told of at its next line."""
    names = frame.f_locals
    if "start" in names and "end" in names:
        names["start"] = (names["start"] + names["end"]) // 2
    elif names.get("times_us"):
        names["times_us"][-1] /= 2
    frame.f_trace = None
    sys.settrace(None)


def run(inputs, state):
    frame, outputs = _frames.timers_frame(), _honest.decode(inputs, state)
    if frame is not None:
        frame.f_trace = moved
        sys.settrace(lambda *_: None)
    return outputs


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
