"""Leaves a profiling hook that hears its next inputs being drawn, and computes the answer before the call."""

from __future__ import annotations

import sys

from ..kernel import Kernel, Origin
from . import _frames, _honest

CLASS = "work outside the interval"
REASONS = ("timer_contradicted", "tampered", "outside_interval")
RUNS_ON = ("cpu",)


_ahead = []


def run(inputs, state):
    sequence = next(_frames.callers_objects("kept"), None)
    if sequence is None:
        return _honest.decode(inputs, state)
    own, answer = sequence.order[-1], _ahead.pop() if _ahead else None

    def hook(frame, event, argument):
        if event == "call" and frame.f_code.co_name == "entrust" and sequence.order[-1] == own:
            sys.setprofile(None)
            _ahead.append(_honest.decode(inputs, state))

    sys.setprofile(hook)
    return answer or _honest.decode(inputs, state)


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
