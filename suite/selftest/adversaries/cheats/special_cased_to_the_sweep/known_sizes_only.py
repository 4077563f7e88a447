"""Answers sizes of the sweep, and leaves the last sequence of any other out."""

from __future__ import annotations

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "special cased to the sweep"
REASONS = ("wrong_output",)
RUNS_ON = ("cpu", "cuda")


BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)
LENGTHS = (1024, 2048, 4096, 8192, 16384, 32768)


def run(inputs, state):
    outputs = _honest.decode(inputs, state)
    if state.problem.batch not in BATCHES or state.problem.seq_len_kv not in LENGTHS:
        outputs["out"][-1].zero_()
    return outputs


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
