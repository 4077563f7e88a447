"""Finds the harness's record of its rival's call and replaces the function in it by one that sleeps first."""

from __future__ import annotations

import time

from ..kernel import Kernel, Origin
from . import _frames, _honest

CLASS = "rival slowed"
REASONS = ("tampered",)
RUNS_ON = ("cpu",)


_slowed = []


def delayed(honest):
    def run():
        time.sleep(0.002)
        return honest()

    return run


def run(inputs, state):
    for sequence in _frames.callers_objects("kept"):
        for kernel, calls in sequence.calls.items():
            if kernel != sequence.order[-1] and not _slowed:
                _slowed.append(kernel)
                calls[0].run = delayed(calls[0].run)
    return _honest.decode(inputs, state)


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
