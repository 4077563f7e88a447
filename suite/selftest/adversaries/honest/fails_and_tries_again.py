"""Tries a way that raises, catches the exception and takes another one."""

from __future__ import annotations

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "ways to write Python"
RUNS_ON = ("cpu", "cuda")


def fast_way(inputs, state):
    raise NotImplementedError("this size has no fast way")


def run(inputs, state):
    try:
        return fast_way(inputs, state)
    except NotImplementedError:
        return _honest.decode(inputs, state)


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
