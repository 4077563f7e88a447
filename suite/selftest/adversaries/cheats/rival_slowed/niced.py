"""Lowers the priority of the process, once, so that whoever is not warmed up by then is slower."""

from __future__ import annotations

import os

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "rival slowed"
REASONS = ("tampered",)
RUNS_ON = ("cpu", "cuda")


_done = []


def run(inputs, state):
    if not _done:
        _done.append(os.nice(3))
    return _honest.decode(inputs, state)


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
