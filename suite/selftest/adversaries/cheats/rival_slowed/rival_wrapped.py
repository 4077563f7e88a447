"""Replaces the run of every other kernel in the process by one that sleeps first."""

from __future__ import annotations

import sys
import time

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "rival slowed"
REASONS = ("tampered",)
RUNS_ON = ("cpu", "cuda")


_slowed = set()


def delayed(honest):
    def run(inputs, state):
        time.sleep(0.002)
        return honest(inputs, state)

    return run


def run(inputs, state):
    for name, module in list(sys.modules.items()):
        kernel = getattr(module, "KERNEL", None)
        if name.startswith("kernels.") and isinstance(kernel, Kernel) and kernel is not KERNEL and name not in _slowed:
            _slowed.add(name)
            object.__setattr__(kernel, "run", delayed(kernel.run))
    return _honest.decode(inputs, state)


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
