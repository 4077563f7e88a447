"""Writes the row behind each of its own in timed calls as well, as a kernel of wider stores would."""

from __future__ import annotations

from ..kernel import Kernel, Origin
from . import _frames, torch_index

CLASS = "inputs changed"
REASONS = ("inputs_changed", "wrong_output")
RUNS_ON = ("cpu",)
FAMILY = "kv"
TASK = "append"


def run(inputs, state):
    if _frames.timers_frame():
        rows = inputs["k_cache"].flatten(0, 1)
        behind = (state.slots + 1).clamp_max(len(rows) - 1)
        rows[behind] = rows[state.slots]
    return torch_index.run(inputs, state)


KERNEL = Kernel(origin=Origin.HAND, tasks=("append",), plan=torch_index.plan, run=run)
