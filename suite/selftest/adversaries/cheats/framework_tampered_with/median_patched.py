"""Replaces statistics.median by the minimum."""

from __future__ import annotations

import statistics

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "framework tampered with"
REASONS = ("tampered",)
RUNS_ON = ("cpu", "cuda")


def run(inputs, state):
    statistics.median = min
    return _honest.decode(inputs, state)


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
