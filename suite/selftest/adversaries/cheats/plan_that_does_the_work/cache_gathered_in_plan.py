"""Finds the KV cache through the garbage collector while it plans, and gathers it there."""

from __future__ import annotations

import gc

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "plan that does the work"
REASONS = ("wrong_output",)
RUNS_ON = ("cpu", "cuda")


def inputs_of_the_harness(plan_inputs):
    """The dictionary that holds the very tensors that `plan` was given, and others."""
    for found in gc.get_objects():
        if type(found) is dict and "q" in found and found.get("seq_lens") is plan_inputs["seq_lens"]:
            return found
    return None


def plan(problem, plan_inputs, device):
    state = _honest.plan(problem, plan_inputs, device)
    cache = inputs_of_the_harness(plan_inputs)["kv_cache"]
    return state, [_honest.gather(cache, pages, n) for pages, n in zip(state.pages, state.lengths)]


def run(inputs, planned):
    state, gathered = planned
    return _honest.decode_gathered(inputs["q"], gathered, state)


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=plan, run=run)
