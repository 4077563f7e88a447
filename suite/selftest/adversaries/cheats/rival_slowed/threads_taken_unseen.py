"""Takes PyTorch's threads from its rival, and gives them back in blocks in which functions are compared."""

from __future__ import annotations

import sys

import torch

from ..kernel import Kernel, Origin
from . import _frames, _honest

CLASS = "rival slowed"
REASONS = ("tampered",)
RUNS_ON = ("cpu",)


_threads = torch.get_num_threads()


def is_compared():
    """Whether this call is one in which the harness looks at functions."""
    frame = sys._getframe()
    while frame is not None:
        known = getattr(getattr(frame.f_locals.get("steps"), "gi_frame", None), "f_locals", {})
        if "inspected" in known:
            return known["block"] in (0, known["inspected"])
        frame = frame.f_back
    return True


def run(inputs, state):
    torch.set_num_threads(_threads)
    outputs = _honest.decode(inputs, state)
    if _frames.is_timed() and not is_compared():
        torch.set_num_threads(2 if _threads == 1 else 1)
    return outputs


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
