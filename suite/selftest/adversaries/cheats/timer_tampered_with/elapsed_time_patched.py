"""Replaces torch.cuda.Event.elapsed_time. Seen at KernelBench and deep-reinforce."""

from __future__ import annotations

import torch

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "timer tampered with"
REASONS = ("tampered", "timer_contradicted")
RUNS_ON = ("cuda",)


_elapsed = torch.cuda.Event.elapsed_time


def run(inputs, state):
    torch.cuda.Event.elapsed_time = lambda start, end: _elapsed(start, end) / 4
    return _honest.decode(inputs, state)


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
