"""Switches oneDNN off for the whole process, in timed calls only: its rival's products take another path."""

from __future__ import annotations

import torch

from ..kernel import Kernel, Origin
from . import _frames, _honest

CLASS = "rival slowed"
REASONS = ("tampered",)
RUNS_ON = ("cpu",)


def run(inputs, state):
    if _frames.is_timed():
        torch.backends.mkldnn.enabled = False
    return _honest.decode(inputs, state)


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
