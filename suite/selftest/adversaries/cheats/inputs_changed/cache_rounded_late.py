"""Rounds the KV cache in place to what its own 8-bit products need, in timed calls only."""

from __future__ import annotations

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "inputs changed"
REASONS = ("inputs_changed",)
RUNS_ON = ("cpu", "cuda")


_calls = 0


def run(inputs, state):
    global _calls
    _calls += 1
    outputs = _honest.decode(inputs, state)
    if _honest.is_timed(_calls):
        inputs["kv_cache"].mul_(64).round_().div_(64)
    return outputs


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
