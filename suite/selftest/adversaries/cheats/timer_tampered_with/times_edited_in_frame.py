"""Finds the timer's list of times in its callers' frames and divides its own entries by three: no function is
replaced.
"""

from __future__ import annotations

from ..kernel import Kernel, Origin
from . import _honest, _times

CLASS = "timer tampered with"
REASONS = ("timer_contradicted", "tampered")
RUNS_ON = ("cpu",)


def run(inputs, state):
    _times.shorten_mine()
    return _honest.decode(inputs, state)


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
