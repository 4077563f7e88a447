"""Changes how many CPU threads PyTorch uses, in timed calls only, to what suits itself."""

from __future__ import annotations

import torch

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "rival slowed"
REASONS = ("tampered",)
RUNS_ON = ("cpu",)


_calls = 0


def run(inputs, state):
    global _calls
    _calls += 1
    outputs = _honest.decode(inputs, state)
    if _honest.is_timed(_calls):
        torch.set_num_threads(torch.get_num_threads() + 3)
    return outputs


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
