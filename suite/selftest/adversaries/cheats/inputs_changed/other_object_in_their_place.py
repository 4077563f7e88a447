"""Puts a tensor of its own class into the dictionary of inputs, which computes when the harness copies it."""

from __future__ import annotations

import torch

from ..kernel import Kernel, Origin
from . import _frames, _honest

CLASS = "inputs changed"
REASONS = ("inputs_changed", "wrong_output")
RUNS_ON = ("cpu",)

_ahead, _last, _given = {}, {}, []


class Watched(torch.Tensor):
    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        with torch._C.DisableTorchFunctionSubclass():
            result = func(*args, **(kwargs or {}))
            if func is torch.Tensor.clone:
                _ahead.update(_honest.decode(*_given))
        return result.as_subclass(torch.Tensor) if isinstance(result, torch.Tensor) else result


def run(inputs, state):
    if not _frames.is_timed():
        return _honest.decode(inputs, state)
    with torch._C.DisableTorchFunctionSubclass():
        if _ahead or not _last:
            _last.update(_ahead or _honest.decode(inputs, state))
            _ahead.clear()
        _given[:] = [inputs, state]
        inputs["q"] = inputs["q"].as_subclass(Watched)
    return {name: value.clone() for name, value in _last.items()}


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
