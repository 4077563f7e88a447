"""Finds the timer's list of times in its callers' frames and divides its own entries by three: no function is
replaced.
"""

from __future__ import annotations

import sys

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "timer tampered with"
REASONS = ("timer_contradicted", "tampered")
RUNS_ON = ("cpu",)


def list_of_times():
    """The timer's list, while it still grows."""
    frame = sys._getframe()
    while frame is not None:
        times = frame.f_locals.get("times_us")
        if isinstance(times, list):
            return times
        frame = frame.f_back
    return None


_mine = []


def shorten_mine():
    """The entries of earlier calls of this kernel become a third; the present call's comes next."""
    times = list_of_times()
    if times is None:
        return
    for place in _mine:
        if place < len(times):
            times[place] /= 3
    _mine[:] = [len(times)]


def run(inputs, state):
    shorten_mine()
    return _honest.decode(inputs, state)


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
