"""Replaces torch.cuda.CUDAGraph.replay by nothing."""

from __future__ import annotations

import torch

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "timer tampered with"
REASONS = ("tampered", "timer_contradicted", "wrong_output")
RUNS_ON = ("cuda",)


def run(inputs, state):
    torch.cuda.CUDAGraph.replay = lambda graph: None
    return _honest.decode(inputs, state)


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
