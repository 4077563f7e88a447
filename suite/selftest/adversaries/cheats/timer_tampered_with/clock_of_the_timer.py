"""Gives the harness's timer module a clock of its own that runs slower during this kernel."""

from __future__ import annotations

import sys
import time

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "timer tampered with"
REASONS = ("tampered", "timer_contradicted")
RUNS_ON = ("cpu",)


_now = time.perf_counter_ns
_left_out = 0


def run(inputs, state):
    global _left_out
    timer = sys.modules.get("suite.device.timer")
    if timer is not None:
        timer._now = lambda: _now() - _left_out
    start = _now()
    outputs = _honest.decode(inputs, state)
    _left_out += (_now() - start) * 3 // 4
    return outputs


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
