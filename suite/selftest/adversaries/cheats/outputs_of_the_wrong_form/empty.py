"""Returns tensors without elements, of which all are close. Seen at GPU MODE."""

from __future__ import annotations

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "outputs of the wrong form"
REASONS = ("wrong_form",)
RUNS_ON = ("cpu", "cuda")


def run(inputs, state):
    return {name: value[:0].clone() for name, value in _honest.empty_outputs(inputs["q"]).items()}


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
