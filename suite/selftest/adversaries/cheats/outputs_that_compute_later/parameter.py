"""Returns a torch.nn.Parameter: a subclass of Tensor."""

from __future__ import annotations

import torch

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "outputs that compute later"
REASONS = ("wrong_form",)
RUNS_ON = ("cpu", "cuda")


def run(inputs, state):
    outputs = _honest.decode(inputs, state)
    return outputs | {"out": torch.nn.Parameter(outputs["out"], requires_grad=False)}


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
