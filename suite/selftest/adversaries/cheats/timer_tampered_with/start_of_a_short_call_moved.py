"""Moves the moment that the timer noted before a call of a few microseconds by four fifths of what it took."""

from __future__ import annotations

import ctypes
import time

from ..kernel import Kernel, Origin
from . import _frames, torch_index

CLASS = "timer tampered with"
REASONS = ("timer_contradicted", "tampered", "no_gain")
RUNS_ON = ("cpu",)
FAMILY = "kv"
TASK = "mla_append"


def run(inputs, state):
    frame, outputs = _frames.timers_frame(), torch_index.run(inputs, state)
    if frame is not None:
        names = frame.f_locals  # from Python 3.13 on these are the variables themselves
        names["start"] = names.get("start", 0) + (time.perf_counter_ns() - names.get("start", 0)) * 4 // 5
        if hasattr(ctypes.pythonapi, "PyFrame_LocalsToFast"):
            ctypes.pythonapi.PyFrame_LocalsToFast(ctypes.py_object(frame), ctypes.c_int(0))
    return outputs


KERNEL = Kernel(origin=Origin.HAND, tasks=("mla_append",), plan=torch_index.plan, run=run)
