"""Holds on to the inputs of its last call, by weak reference and by name, and does nothing with them."""

from __future__ import annotations

import weakref

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "memory"
RUNS_ON = ("cpu", "cuda")


_last = {}


def run(inputs, state):
    _last.clear()
    _last.update({name: weakref.ref(tensor) for name, tensor in inputs.items()})
    return _honest.decode(inputs, state)


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
