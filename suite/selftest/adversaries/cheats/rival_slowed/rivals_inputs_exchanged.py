"""Gives its rival the same cache again, in an order of memory that takes longer to read."""

from __future__ import annotations

from ..kernel import Kernel, Origin
from . import _frames, _honest

CLASS = "rival slowed"
REASONS = ("tampered",)
RUNS_ON = ("cpu",)


def run(inputs, state):
    for sequence in _frames.callers_objects("kept"):
        for kernel, calls in sequence.calls.items():
            given = next(argument for argument in calls[0].run.args if isinstance(argument, dict))
            if kernel != sequence.order[-1] and given["kv_cache"].is_contiguous():
                given["kv_cache"] = given["kv_cache"].transpose(0, 1).contiguous().transpose(0, 1)
    return _honest.decode(inputs, state)


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
