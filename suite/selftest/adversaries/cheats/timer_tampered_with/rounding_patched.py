"""Replaces the builtin round, through which every reported time goes."""

from __future__ import annotations

import builtins

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "timer tampered with"
REASONS = ("tampered", "timer_contradicted")
RUNS_ON = ("cpu", "cuda")


_round = round


def run(inputs, state):
    builtins.round = lambda value, digits=None: _round(value / 2 if digits == 4 else value, digits)
    return _honest.decode(inputs, state)


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
