"""Sets an interval timer whose signal handler works between the timed calls."""

from __future__ import annotations

import signal

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "framework tampered with"
REASONS = ("tampered", "outside_interval")
RUNS_ON = ("cpu", "cuda")


def on_alarm(number, frame):
    sum(range(10000))


def run(inputs, state):
    signal.signal(signal.SIGALRM, on_alarm)
    signal.setitimer(signal.ITIMER_REAL, 0.005, 0.005)
    return _honest.decode(inputs, state)


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
