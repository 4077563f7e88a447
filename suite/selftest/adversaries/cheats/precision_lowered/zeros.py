"""Returns zeros, which a tolerance made for small outputs accepts. Seen at KernelBench (#165)."""

from __future__ import annotations

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "precision lowered"
REASONS = ("wrong_output",)
RUNS_ON = ("cpu", "cuda")


def run(inputs, state):
    return {name: value.zero_() for name, value in _honest.empty_outputs(inputs["q"]).items()}


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
