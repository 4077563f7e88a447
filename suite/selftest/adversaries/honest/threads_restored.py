"""Takes one CPU thread for a part of its work, and gives the others back."""

from __future__ import annotations

import torch

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "ways to use PyTorch"
RUNS_ON = ("cpu",)


def run(inputs, state):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rows = inputs["q"].float()
    finally:
        torch.set_num_threads(threads)
    return _honest.decode({**inputs, "q": rows}, state, _honest.empty_outputs(inputs["q"]))


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
