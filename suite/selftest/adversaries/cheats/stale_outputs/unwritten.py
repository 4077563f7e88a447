"""Returns memory that it never wrote: with luck it still holds the reference's answer. Seen at Sakana."""

from __future__ import annotations

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "stale outputs"
REASONS = ("wrong_output",)
RUNS_ON = ("cpu", "cuda")


def run(inputs, state):
    return _honest.empty_outputs(inputs["q"])


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
