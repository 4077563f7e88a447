"""Moves the moment that the timer noted before the call by half of what the call took."""

from __future__ import annotations

import ctypes
import sys
import time

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "timer tampered with"
REASONS = ("timer_contradicted",)
RUNS_ON = ("cpu",)


def timers_frame():
    frame = sys._getframe()
    while frame is not None and not {"start", "step", "times_us"} <= frame.f_locals.keys():
        frame = frame.f_back
    return frame


def run(inputs, state):
    frame, outputs = timers_frame(), _honest.decode(inputs, state)
    if frame is not None:
        names = frame.f_locals  # from Python 3.13 on these are the variables themselves
        names["start"] += (time.perf_counter_ns() - names["start"]) // 2
        if hasattr(ctypes.pythonapi, "PyFrame_LocalsToFast"):
            ctypes.pythonapi.PyFrame_LocalsToFast(ctypes.py_object(frame), ctypes.c_int(0))
    return outputs


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
