"""Changes the default dtype of the process."""

from __future__ import annotations

import torch

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "framework tampered with"
REASONS = ("tampered",)
RUNS_ON = ("cpu", "cuda")


def run(inputs, state):
    outputs = _honest.decode(inputs, state)
    torch.set_default_dtype(torch.float64)
    return outputs


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
