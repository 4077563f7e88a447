"""Returns a lazily negated view: the negation is left to whoever reads it."""

from __future__ import annotations

import torch

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "outputs that compute later"
REASONS = ("wrong_form",)
RUNS_ON = ("cpu", "cuda")


def run(inputs, state):
    outputs = _honest.decode(inputs, state)
    return {name: torch._neg_view(value.neg_()) for name, value in outputs.items()}


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
