"""Runs its products without oneDNN, and switches it on again before it returns."""

from __future__ import annotations

import torch

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "ways to use PyTorch"
RUNS_ON = ("cpu", "cuda")


def run(inputs, state):
    with torch.backends.mkldnn.flags(enabled=False):
        return _honest.decode(inputs, state)


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
