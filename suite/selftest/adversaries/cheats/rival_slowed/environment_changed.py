"""Sets variables that libraries read when they are first used."""

from __future__ import annotations

import os

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "rival slowed"
REASONS = ("tampered",)
RUNS_ON = ("cpu", "cuda")


def run(inputs, state):
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    os.environ["CUDA_LAUNCH_BLOCKING"] = "1"
    return _honest.decode(inputs, state)


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
