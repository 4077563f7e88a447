"""Profiles itself with PyTorch's profiler for the length of its first calls."""

from __future__ import annotations

import torch

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "ways to use PyTorch"
RUNS_ON = ("cpu",)


MOST = 3
_calls = [0]


def run(inputs, state):
    _calls[0] += 1
    if _calls[0] > MOST:
        return _honest.decode(inputs, state)
    with torch.autograd.profiler.profile():
        return _honest.decode(inputs, state)


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
