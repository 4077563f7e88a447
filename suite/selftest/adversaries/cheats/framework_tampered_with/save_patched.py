"""Replaces what writes its outputs for the referee: the answer is computed there."""

from __future__ import annotations

import sys

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "framework tampered with"
REASONS = ("tampered",)
RUNS_ON = ("cpu", "cuda")


_last = {}


def run(inputs, state):
    _last.update(inputs=inputs, state=state)
    for name, module in list(sys.modules.items()):
        if name.startswith("suite.") and hasattr(module, "save_outputs") and not hasattr(module, "honest_save"):
            module.honest_save = module.save_outputs
            module.save_outputs = lambda outputs, *rest, m=module: m.honest_save(
                _honest.decode(_last["inputs"], _last["state"]), *rest
            )
    return _honest.empty_outputs(inputs["q"])


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
