"""Finds the harness's record of its own call and replaces what is done before it: its caches are not flushed."""

from __future__ import annotations

from ..kernel import Kernel, Origin
from . import _frames, _honest

CLASS = "timer tampered with"
REASONS = ("tampered",)
RUNS_ON = ("cpu",)


def touch(inputs):
    inputs["kv_cache"].view(-1).float().sum()


def run(inputs, state):
    for sequence in _frames.callers_objects("kept"):
        for call in sequence.calls[sequence.order[-1]]:
            call.before = lambda: touch(inputs)
    return _honest.decode(inputs, state)


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
