"""Returns unwritten outputs and starts a timer that fires once: its signal's handler computes them when the time is
told, and puts the old handler back."""

from __future__ import annotations

import signal

from ..kernel import Kernel, Origin
from . import _frames, _honest

CLASS = "forged results"
REASONS = ("timer_contradicted", "outside_interval", "tampered", "wrong_output")
RUNS_ON = ("cpu",)


def is_told(frame):
    while frame is not None:
        if frame.f_code.co_name in ("_tell", "_look"):
            return True
        frame = frame.f_back
    return False


def run(inputs, state):
    if not _frames.is_timed():
        return _honest.decode(inputs, state)
    outputs = _honest.empty_outputs(inputs["q"])

    def handler(number, frame):
        if not is_told(frame):
            signal.setitimer(signal.ITIMER_REAL, 2e-5)
            return
        signal.signal(signal.SIGALRM, before)
        _honest.decode(inputs, state, outputs)

    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 1e-4)
    return outputs


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
