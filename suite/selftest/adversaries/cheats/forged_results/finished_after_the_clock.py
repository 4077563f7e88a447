"""Returns unwritten outputs and leaves a profiling hook, which computes them when the time is told and then goes."""

from __future__ import annotations

import sys

from ..kernel import Kernel, Origin
from . import _frames, _honest

CLASS = "forged results"
REASONS = ("timer_contradicted", "outside_interval", "tampered")
RUNS_ON = ("cpu",)


def run(inputs, state):
    if not _frames.is_timed():
        return _honest.decode(inputs, state)
    outputs = _honest.empty_outputs(inputs["q"])

    def hook(frame, event, arg):
        if event == "call" and frame.f_code.co_name == "_look":
            sys.setprofile(None)
            _honest.decode(inputs, state, outputs)

    sys.setprofile(hook)
    return outputs


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
