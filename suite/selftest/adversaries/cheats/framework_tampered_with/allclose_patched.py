"""Replaces torch.allclose and torch.equal: everything is close. Seen at KernelBench."""

from __future__ import annotations

import torch

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "framework tampered with"
REASONS = ("tampered",)
RUNS_ON = ("cpu", "cuda")


def run(inputs, state):
    torch.allclose = torch.equal = lambda *args, **kwargs: True
    return _honest.decode(inputs, state)


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
