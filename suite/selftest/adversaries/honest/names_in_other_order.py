"""Returns the LSE first."""

from __future__ import annotations

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "form of outputs"
RUNS_ON = ("cpu", "cuda")


def run(inputs, state):
    outputs = _honest.decode(inputs, state)
    return {"lse": outputs["lse"], "out": outputs["out"]}


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
