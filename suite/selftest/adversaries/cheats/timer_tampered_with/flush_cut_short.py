"""Cuts what is read to flush the caches down to a few bytes."""

from __future__ import annotations

import torch

from ..kernel import Kernel, Origin
from . import _frames, _honest

CLASS = "timer tampered with"
REASONS = ("tampered",)
RUNS_ON = ("cpu",)


def flush_buffer():
    """What is read to flush the caches, from the variables of the function that does it."""
    for sequence in _frames.callers_objects("kept"):
        for calls in sequence.calls.values():
            for cell in calls[0].before.__closure__ or ():
                if isinstance(cell.cell_contents, torch.Tensor):
                    return cell.cell_contents
    return None


def run(inputs, state):
    buffer = flush_buffer()
    if buffer is not None and buffer.numel() > 16:
        buffer.set_(buffer[:16].clone())
    return _honest.decode(inputs, state)


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
