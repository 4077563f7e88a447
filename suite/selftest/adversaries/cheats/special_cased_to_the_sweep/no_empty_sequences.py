"""Divides by a length that may be zero."""

from __future__ import annotations

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "special cased to the sweep"
REASONS = ("wrong_output",)
RUNS_ON = ("cpu", "cuda")


def run(inputs, state):
    outputs = _honest.decode(inputs, state)
    outputs["out"] /= inputs["seq_lens"].to(outputs["out"].dtype).view(-1, 1, 1, 1)
    outputs["out"] *= inputs["seq_lens"].to(outputs["out"].dtype).view(-1, 1, 1, 1)
    return outputs


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
