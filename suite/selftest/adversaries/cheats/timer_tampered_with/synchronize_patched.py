"""Replaces torch.cuda.synchronize by nothing. Seen at KernelBench and deep-reinforce."""

from __future__ import annotations

import torch

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "timer tampered with"
REASONS = ("tampered", "timer_contradicted")
RUNS_ON = ("cuda",)


def run(inputs, state):
    torch.cuda.synchronize = lambda device=None: None
    return _honest.decode(inputs, state)


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
