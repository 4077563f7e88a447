"""Finds the seed in its caller's frames, draws the same inputs again while it plans, and gathers that cache."""

from __future__ import annotations

import sys

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "plan that does the work"
REASONS = ("wrong_output",)
RUNS_ON = ("cpu", "cuda")


def seed_of_the_caller():
    frame = sys._getframe()
    while frame is not None:
        if isinstance(frame.f_locals.get("seed"), int):
            return frame.f_locals["seed"], frame.f_locals.get("distribution", "normal")
        frame = frame.f_back
    return 0, "normal"  # a guess


def drawn_again(problem, device):
    seed, distribution = seed_of_the_caller()
    return problem.make_inputs(seed, device.torch_name, distribution)


def plan(problem, plan_inputs, device):
    state = _honest.plan(problem, plan_inputs, device)
    cache = drawn_again(problem, device)["kv_cache"]
    return state, [_honest.gather(cache, pages, n) for pages, n in zip(state.pages, state.lengths)]


def run(inputs, planned):
    state, gathered = planned
    return _honest.decode_gathered(inputs["q"], gathered, state)


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=plan, run=run)
