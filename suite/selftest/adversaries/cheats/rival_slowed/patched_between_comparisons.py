"""Replaces a function that its rival calls, and puts it back before the blocks in which functions are compared."""

from __future__ import annotations

import sys
import time

import torch

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "rival slowed"
REASONS = ("tampered",)
RUNS_ON = ("cpu",)

_true = torch.nn.functional.scaled_dot_product_attention


def slow(*args, **kwargs):
    time.sleep(0.003)
    return _true(*args, **kwargs)


def is_safe():
    """Whether neither this block nor the next is compared, as the harness's own variables say."""
    frame = sys._getframe()
    while frame is not None:
        known = getattr(getattr(frame.f_locals.get("steps"), "gi_frame", None), "f_locals", {})
        if "inspected" in known:
            block, last = known["block"], known["self"].blocks - 1
            return not {block, block + 1} & {0, known["inspected"], last}
        frame = frame.f_back
    return False


def run(inputs, state):
    torch.nn.functional.scaled_dot_product_attention = slow if is_safe() else _true
    return _honest.decode(inputs, state)


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
