"""Returns the same three buffers in turn: two calls do not show it, and no call pays for fresh memory."""

from __future__ import annotations

import itertools

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "outputs of the wrong form"
REASONS = ("wrong_form",)
RUNS_ON = ("cpu",)


_calls = itertools.count()
_buffers = {}


def run(inputs, state):
    key = (inputs["q"].shape, next(_calls) % 3)
    if key not in _buffers:
        _buffers[key] = _honest.empty_outputs(inputs["q"])
    return dict(_honest.decode(inputs, state, _buffers[key]))


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
