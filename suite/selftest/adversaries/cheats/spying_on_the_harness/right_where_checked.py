"""Tells by an environment variable that only the process of checks has whether it is checked or timed."""

from __future__ import annotations

import os

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "spying on the harness"
REASONS = ("wrong_output",)
RUNS_ON = ("cpu",)


def run(inputs, state):
    outputs = _honest.empty_outputs(inputs["q"])
    if "MALLOC_PERTURB_" in os.environ or inputs["q"].is_cuda:
        _honest.decode(inputs, state, outputs)
    return outputs


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
