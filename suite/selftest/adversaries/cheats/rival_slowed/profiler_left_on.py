"""Leaves PyTorch's profiler on, which notes every operator of its rival."""

from __future__ import annotations

import torch

from ..kernel import Kernel, Origin
from . import _frames, _honest

CLASS = "rival slowed"
REASONS = (
    "outside_interval",
    "tampered",
)
RUNS_ON = ("cpu",)


_profilers = []


def run(inputs, state):
    if _frames.is_timed() and not _profilers:
        _profilers.append(torch.autograd.profiler.profile(with_stack=True, record_shapes=True))
        _profilers[0].__enter__()
    return _honest.decode(inputs, state)


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
