"""Has the garbage collector call it, and does there, between the calls, what would cost time in them."""

from __future__ import annotations

import gc

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "framework tampered with"
REASONS = ("tampered", "outside_interval")
RUNS_ON = ("cpu", "cuda")


def between_calls(phase, info):
    sum(range(10000))


def run(inputs, state):
    if between_calls not in gc.callbacks:
        gc.callbacks.append(between_calls)
    return _honest.decode(inputs, state)


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
