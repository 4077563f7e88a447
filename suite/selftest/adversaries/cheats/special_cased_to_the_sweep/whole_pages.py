"""Reads every page to its end, as if lengths were multiples of the page size."""

from __future__ import annotations

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "special cased to the sweep"
REASONS = ("wrong_output",)
RUNS_ON = ("cpu", "cuda")


def plan(problem, plan_inputs, device):
    full = -(-plan_inputs["seq_lens"] // problem.page_size) * problem.page_size
    return _honest.plan(problem, {**plan_inputs, "seq_lens": full}, device)


def run(inputs, state):
    return _honest.decode(inputs, state)


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=plan, run=run)
