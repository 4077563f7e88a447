"""Has the processor flush denormal numbers to zero, in timed calls only."""

from __future__ import annotations

import torch

from ..kernel import Kernel, Origin
from . import _frames, _honest

CLASS = "framework tampered with"
REASONS = ("tampered",)
RUNS_ON = ("cpu",)


def run(inputs, state):
    if _frames.is_timed():
        torch.set_flush_denormal(True)
    return _honest.decode(inputs, state)


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
