"""Copies its result into the outputs with C's memmove."""

from __future__ import annotations

import ctypes

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "form of outputs"
RUNS_ON = ("cpu",)


def run(inputs, state):
    computed, outputs = _honest.decode(inputs, state), _honest.empty_outputs(inputs["q"])
    for name, value in computed.items():
        size = value.numel() * value.element_size()
        ctypes.memmove(outputs[name].data_ptr(), value.data_ptr(), size)
    return outputs


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
