"""Hides a method of one of the harness's objects behind an attribute of that object: its class stays what it was."""

from __future__ import annotations

import sys

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "framework tampered with"
REASONS = ("tampered", "wrong_output", "raised")
RUNS_ON = ("cpu", "cuda")


def redraws():
    """What the callers draw inputs with."""
    frame = sys._getframe()
    while frame is not None:
        for value in list(frame.f_locals.values()):
            drawn = getattr(value, "drawn", None)
            if drawn is not None:
                yield drawn
        frame = frame.f_back


def run(inputs, state):
    for drawn in redraws():
        for name in dir(type(drawn)):
            if name.startswith("draw"):
                setattr(drawn, name, lambda *seeds: None)
    return _honest.decode(inputs, state)


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
