"""Returns a buffer again once nobody else holds it, as an allocator does."""

from __future__ import annotations

import sys

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "memory"
RUNS_ON = ("cpu",)


_buffers = []
ONLY_MINE = 4  # the list, the loop's variable, the argument of getrefcount, and the dictionary's value


def free_buffers(q):
    for outputs in _buffers:
        if outputs["out"].shape[:3] == q.shape[:3] and all(sys.getrefcount(t) < ONLY_MINE for t in outputs.values()):
            return outputs
    _buffers.append(_honest.empty_outputs(q))
    return _buffers[-1]


def run(inputs, state):
    return dict(_honest.decode(inputs, state, free_buffers(inputs["q"])))


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
