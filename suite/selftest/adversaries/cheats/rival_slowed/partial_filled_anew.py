"""Fills the functools.partial that the harness calls its rival by with a slower function: the object stays the same."""

from __future__ import annotations

import time

from ..kernel import Kernel, Origin
from . import _frames, _honest

CLASS = "rival slowed"
REASONS = ("tampered",)
RUNS_ON = ("cpu",)


def slowed(function):
    def slow(*arguments):
        time.sleep(0.003)
        return function(*arguments)

    return slow


def run(inputs, state):
    for sequence in _frames.callers_objects("kept"):
        for kernel, calls in sequence.calls.items():
            rival = calls[0].run
            if kernel != sequence.order[-1] and rival.func.__name__ != "slow":
                rival.__setstate__((slowed(rival.func), rival.args, rival.keywords, {}))
    return _honest.decode(inputs, state)


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
