"""Shortens the sequences in place while it plans, for itself and for all others."""

from __future__ import annotations

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "inputs changed"
REASONS = ("inputs_changed", "wrong_output")
RUNS_ON = ("cpu", "cuda")


def plan(problem, plan_inputs, device):
    plan_inputs["seq_lens"].clamp_(max=64)
    return _honest.plan(problem, plan_inputs, device)


def run(inputs, state):
    return _honest.decode(inputs, state)


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=plan, run=run)
