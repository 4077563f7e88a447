"""Leaves the rows of a cache unwritten and a profiling hook, which writes them when the time is told and then goes."""

from __future__ import annotations

import sys

from ..kernel import Kernel, Origin
from . import _frames, torch_index

CLASS = "forged results"
REASONS = ("timer_contradicted", "outside_interval", "tampered")
RUNS_ON = ("cpu",)
FAMILY = "kv"
TASK = "append"


def run(inputs, state):
    if _frames.timers_frame() is None:
        return torch_index.run(inputs, state)

    def hook(frame, event, arg):
        if event == "call" and frame.f_code.co_name == "_look":
            sys.setprofile(None)
            torch_index.run(inputs, state)

    sys.setprofile(hook)
    return {}


KERNEL = Kernel(origin=Origin.HAND, tasks=("append",), plan=torch_index.plan, run=run)
