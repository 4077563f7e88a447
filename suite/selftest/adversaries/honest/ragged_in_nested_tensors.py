"""Holds sequences of different lengths in one nested tensor."""

from __future__ import annotations

import torch

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "ways to use PyTorch"
RUNS_ON = ("cpu",)


def run(inputs, state):
    rows = [_honest.gather(inputs["kv_cache"], pages, n) for pages, n in zip(state.pages, state.lengths)]
    return _honest.decode_gathered(inputs["q"], torch.nested.nested_tensor(rows).unbind(), state)


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
