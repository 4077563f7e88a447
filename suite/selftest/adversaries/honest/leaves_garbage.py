"""Leaves cycles of objects behind, whose finalisers count."""

from __future__ import annotations

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "memory"
RUNS_ON = ("cpu", "cuda")


_counted = [0]


class Note:
    def __init__(self):
        self.itself = self

    def __del__(self):
        _counted[0] += 1


def run(inputs, state):
    for _ in range(300):
        Note()
    return _honest.decode(inputs, state)


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
