"""Returns the answer without its last sequence: zip and allclose may not notice. Seen at GPU MODE."""

from __future__ import annotations

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "outputs of the wrong form"
REASONS = ("wrong_form",)
RUNS_ON = ("cpu", "cuda")


def run(inputs, state):
    return {name: value[:-1].clone() for name, value in _honest.decode(inputs, state).items()}


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
