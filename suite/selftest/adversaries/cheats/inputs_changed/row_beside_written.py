"""Writes the row behind each of its own in timed calls as well, as a kernel of wider stores would."""

from __future__ import annotations

import sys

from ..kernel import Kernel, Origin
from . import torch_index

CLASS = "inputs changed"
REASONS = ("inputs_changed", "wrong_output")
RUNS_ON = ("cpu",)
FAMILY = "kv"
TASK = "append"


def is_timed():
    frame = sys._getframe()
    while frame is not None and "times_us" not in frame.f_locals:
        frame = frame.f_back
    return frame is not None


def run(inputs, state):
    if is_timed():
        rows = inputs["k_cache"].flatten(0, 1)
        behind = (state.slots + 1).clamp_max(len(rows) - 1)
        rows[behind] = rows[state.slots]
    return torch_index.run(inputs, state)


KERNEL = Kernel(origin=Origin.HAND, tasks=("append",), plan=torch_index.plan, run=run)
