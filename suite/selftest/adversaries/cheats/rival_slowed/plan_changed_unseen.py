"""Changes its rival's plan, in a block in which functions are not compared."""

from __future__ import annotations

import sys
import time

from ..kernel import Kernel, Origin
from . import _frames, _honest

CLASS = "rival slowed"
REASONS = ("tampered",)
RUNS_ON = ("cpu",)


def is_compared():
    """Whether this call is one in which the harness looks at functions."""
    frame = sys._getframe()
    while frame is not None:
        known = getattr(getattr(frame.f_locals.get("steps"), "gi_frame", None), "f_locals", {})
        if "inspected" in known:
            return known["block"] in (0, known["inspected"])
        frame = frame.f_back
    return True


class Slow(tuple):
    def __len__(self):
        time.sleep(0.003)
        return super().__len__()


def run(inputs, state):
    for sequence in () if is_compared() else _frames.callers_objects("kept"):
        for kernel, calls in sequence.calls.items():
            plan = calls[0].run.args[-1]
            if kernel != sequence.order[-1] and type(getattr(plan, "groups", None)) is tuple:
                object.__setattr__(plan, "groups", Slow(plan.groups))
    return _honest.decode(inputs, state)


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
