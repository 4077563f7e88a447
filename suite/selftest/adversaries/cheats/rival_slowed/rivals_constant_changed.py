"""Changes a number by which the family's kernels are planned, in the module that defines them, in a timed call."""

from __future__ import annotations

import sys

from ..kernel import Kernel, Origin
from . import _frames, _honest

CLASS = "rival slowed"
REASONS = ("tampered",)
RUNS_ON = ("cpu",)


def run(inputs, state):
    if _frames.is_timed():
        sys.modules["kernels.mla._dims"].KV_LORA_RANK = 256
    return _honest.decode(inputs, state)


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
