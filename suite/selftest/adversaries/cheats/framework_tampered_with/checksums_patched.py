"""Zeroes what it need not read again, and replaces the harness's checksums so that it does not show."""

from __future__ import annotations

import sys

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "framework tampered with"
REASONS = ("tampered", "inputs_changed")
RUNS_ON = ("cpu", "cuda")


def run(inputs, state):
    outputs = _honest.decode(inputs, state)
    for name, module in list(sys.modules.items()):
        if name.startswith("suite.") and hasattr(module, "checksums"):
            module.checksums = lambda tensors: dict.fromkeys(tensors, 0)
    return outputs


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
