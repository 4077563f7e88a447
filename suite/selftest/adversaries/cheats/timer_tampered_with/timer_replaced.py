"""Replaces the harness's CPU timer by one that reports a quarter."""

from __future__ import annotations

import sys

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "timer tampered with"
REASONS = ("tampered", "timer_contradicted")
RUNS_ON = ("cpu",)


def run(inputs, state):
    timer = sys.modules.get("suite.device.timer")
    if timer is not None and not hasattr(timer.PerfCounter, "honest"):
        timer.PerfCounter.honest = timer.PerfCounter.measure
        timer.PerfCounter.measure = lambda self, steps: [t / 4 for t in self.honest(steps)]
    return _honest.decode(inputs, state)


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
