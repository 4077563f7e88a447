"""Leaves a torch function mode active, which sees every later call of torch in the process."""

from __future__ import annotations

from torch.overrides import TorchFunctionMode

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "framework tampered with"
REASONS = ("tampered",)
RUNS_ON = ("cpu", "cuda")


class Watch(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


_modes = []


def run(inputs, state):
    outputs = _honest.decode(inputs, state)
    if not _modes:
        _modes.append(Watch())
        _modes[0].__enter__()
    return outputs


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
