"""Sets an alarm by processor time, whose handler sleeps while its rival is called."""

from __future__ import annotations

import signal
import time

from ..kernel import Kernel, Origin
from . import _frames, _honest

CLASS = "rival slowed"
REASONS = ("tampered",)
RUNS_ON = ("cpu",)


def sleep_in_a_rival(number, frame):
    while frame is not None:
        if frame.f_code.co_name == "run_with":
            time.sleep(0.002)
            return
        frame = frame.f_back


def run(inputs, state):
    if _frames.is_timed():
        signal.signal(signal.SIGVTALRM, sleep_in_a_rival)
        signal.setitimer(signal.ITIMER_VIRTUAL, 0.002, 0.002)
    return _honest.decode(inputs, state)


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
