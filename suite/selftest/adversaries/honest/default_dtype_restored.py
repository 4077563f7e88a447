"""Works under another default dtype and device, within contexts that end."""

from __future__ import annotations

import torch

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "ways to use PyTorch"
RUNS_ON = ("cpu", "cuda")


def run(inputs, state):
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.device(inputs["q"].device):
            return _honest.decode(inputs, state)
    finally:
        torch.set_default_dtype(before)


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
