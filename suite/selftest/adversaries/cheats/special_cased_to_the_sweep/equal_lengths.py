"""Takes all sequences to be as long as the first."""

from __future__ import annotations

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "special cased to the sweep"
REASONS = ("wrong_output",)
RUNS_ON = ("cpu", "cuda")


def plan(problem, plan_inputs, device):
    equal = {**plan_inputs, "seq_lens": plan_inputs["seq_lens"][:1].expand(problem.batch)}
    return _honest.plan(problem, equal, device)


def run(inputs, state):
    return _honest.decode(inputs, state)


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=plan, run=run)
