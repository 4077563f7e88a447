"""Leaves a Python profiling hook installed, which can act in the middle of any function of the harness."""

from __future__ import annotations

import sys

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "framework tampered with"
REASONS = ("tampered", "outside_interval")
RUNS_ON = ("cpu", "cuda")


def hook(frame, event, arg):
    return None


def run(inputs, state):
    sys.setprofile(hook)
    return _honest.decode(inputs, state)


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
