"""Takes the KV cache out of its caller's local variables while it plans."""

from __future__ import annotations

import sys

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "plan that does the work"
REASONS = ("wrong_output",)
RUNS_ON = ("cpu", "cuda")


def inputs_of_the_caller():
    frame = sys._getframe()
    while frame is not None:
        inputs = frame.f_locals.get("inputs")
        if isinstance(inputs, dict) and "kv_cache" in inputs:
            return inputs
        frame = frame.f_back
    raise LookupError("no frame holds the inputs")


def plan(problem, plan_inputs, device):
    state = _honest.plan(problem, plan_inputs, device)
    cache = inputs_of_the_caller()["kv_cache"]
    return state, [_honest.gather(cache, pages, n) for pages, n in zip(state.pages, state.lengths)]


def run(inputs, planned):
    state, gathered = planned
    return _honest.decode_gathered(inputs["q"], gathered, state)


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=plan, run=run)
