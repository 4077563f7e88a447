"""Leaves the rows of a cache to a thread, which writes them while the time is told."""

from __future__ import annotations

import threading

from ..kernel import Kernel, Origin
from . import _frames, torch_index

CLASS = "work outside the interval"
REASONS = ("timer_contradicted", "outside_interval", "wrong_output")
RUNS_ON = ("cpu",)
FAMILY = "kv"
TASK = "append"


_work = threading.Semaphore(0)
_asked = []


def write():
    while _work.acquire():
        torch_index.run(*_asked.pop())


def run(inputs, state):
    if _frames.timers_frame() is None:
        return torch_index.run(inputs, state)
    if not threading.active_count() > 1:
        threading.Thread(target=write, daemon=True).start()
    _asked.append((inputs, state))
    _work.release()
    return {}


KERNEL = Kernel(origin=Origin.HAND, tasks=("append",), plan=torch_index.plan, run=run)
