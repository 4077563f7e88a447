"""Keeps its workspace by weak references, with a finaliser that counts what was freed."""

from __future__ import annotations

import weakref

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "memory"
RUNS_ON = ("cpu", "cuda")


_freed = []


class Workspace:
    def __init__(self, inputs):
        self.rows = inputs["q"].float()


def run(inputs, state):
    workspace = Workspace(inputs)
    weakref.finalize(workspace, _freed.append, len(_freed))
    return _honest.decode({**inputs, "q": workspace.rows.to(inputs["q"].dtype)}, state)


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
