"""Every odd call flips the sign of a few cache rows; the next one flips it back: before and after a check all is
well.
"""

from __future__ import annotations

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "inputs changed"
REASONS = ("inputs_changed",)
RUNS_ON = ("cpu", "cuda")


_calls = 0


def run(inputs, state):
    global _calls
    _calls += 1
    outputs = _honest.decode(inputs, state)
    if _honest.is_timed(_calls):
        inputs["kv_cache"][:2].neg_()
    return outputs


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
