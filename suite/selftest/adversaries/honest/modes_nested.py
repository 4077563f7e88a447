"""Nests inference mode, no_grad and a function mode of its own, all of which it leaves."""

from __future__ import annotations

import torch
from torch.overrides import TorchFunctionMode

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "ways to use PyTorch"
RUNS_ON = ("cpu", "cuda")


class Count(TorchFunctionMode):
    calls = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.calls += 1
        return func(*args, **(kwargs or {}))


def run(inputs, state):
    with torch.inference_mode(), torch.no_grad(), Count():
        return _honest.decode(inputs, state)


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
