"""Leaves a profiling hook between its calls, which hears that outputs are kept and only then computes them; in blocks
where settings are compared it computes as it should.
"""

from __future__ import annotations

import sys

from ..kernel import Kernel, Origin
from . import _frames, _honest

CLASS = "framework tampered with"
REASONS = ("tampered", "outside_interval")
RUNS_ON = ("cpu",)


def is_compared(sequence):
    frame = sys._getframe()
    while frame is not None:
        iterator = frame.f_locals.get("steps")
        known = getattr(getattr(iterator, "gi_frame", None), "f_locals", {})
        if known:
            return known["block"] in (0, known["inspected"])
        frame = frame.f_back
    return True


def run(inputs, state):
    sequence = next(_frames.callers_objects("kept"), None)
    if sequence is None or is_compared(sequence):
        return _honest.decode(inputs, state)
    given = {name: tensor.clone() for name, tensor in inputs.items()}

    def hook(frame, event, argument):
        if frame.f_code.co_name == "_turn" and event == "call":
            hook.is_turn = True
        if hook.is_turn and frame.f_code.co_name == "ask" and event == "return":
            sys.setprofile(None)
            if argument["keep_previous"]:
                for name, value in _honest.decode(given, state).items():
                    sequence._latest[name].copy_(value)

    hook.is_turn = False
    sys.setprofile(hook)
    return _honest.empty_outputs(inputs["q"])


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
