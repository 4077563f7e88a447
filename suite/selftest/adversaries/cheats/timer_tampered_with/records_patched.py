"""Replaces what reads the profiler's records: half of every device activity is gone."""

from __future__ import annotations

import sys

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "timer tampered with"
REASONS = ("tampered", "timer_contradicted")
RUNS_ON = ("cuda",)


def run(inputs, state):
    timer = sys.modules.get("suite.device.timer")
    if timer is not None and not hasattr(timer, "honest_records"):
        timer.honest_records = timer._device_records
        timer._device_records = lambda p: [(s, s + (e - s) / 2, n) for s, e, n in timer.honest_records(p)]
    return _honest.decode(inputs, state)


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
