"""Finds all inputs through the garbage collector while it plans, and computes the answer there."""

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
    return state, _honest.decode(inputs_of_the_harness(plan_inputs), state)


def run(inputs, state):
    return {name: value.clone() for name, value in state[1].items()}


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=plan, run=run)
