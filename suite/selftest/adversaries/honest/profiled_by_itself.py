"""Counts its own function calls with a profiling hook, which is gone when it returns."""

from __future__ import annotations

import sys

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "ways to write Python"
RUNS_ON = ("cpu", "cuda")


_counts = {}


def count(frame, event, argument):
    _counts[event] = _counts.get(event, 0) + 1


def run(inputs, state):
    before = sys.getprofile()
    sys.setprofile(count)
    try:
        return _honest.decode(inputs, state)
    finally:
        sys.setprofile(before)


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
