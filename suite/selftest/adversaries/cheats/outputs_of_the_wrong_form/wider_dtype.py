"""Returns float32 where the problem asks for 16 bits: a rounding less."""

from __future__ import annotations

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "outputs of the wrong form"
REASONS = ("wrong_form",)
RUNS_ON = ("cpu", "cuda")


def run(inputs, state):
    outputs = _honest.empty_outputs(inputs["q"])
    return _honest.decode(inputs, state, outputs | {"out": outputs["out"].float()})


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
