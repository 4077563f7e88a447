"""Changes numbers that the harness's modules go by: how long outputs are watched, how often a clock looks on."""

from __future__ import annotations

import sys

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "framework tampered with"
REASONS = ("tampered",)
RUNS_ON = ("cpu", "cuda")


def run(inputs, state):
    for name, module in list(sys.modules.items()):
        if name.startswith("suite."):
            for constant in ("LATE_S", "CALM_WINDOW_S", "WITNESS_S", "WITNESS_ROUNDS", "MIN_FLUSH_BYTES"):
                if hasattr(module, constant):
                    setattr(module, constant, 0)
    return _honest.decode(inputs, state)


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
