"""Has the softmax scale of the sweep built in."""

from __future__ import annotations

import math
from dataclasses import replace

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "special cased to the sweep"
REASONS = ("wrong_output",)
RUNS_ON = ("cpu", "cuda")


def plan(problem, plan_inputs, device):
    return _honest.plan(replace(problem, softmax_scale=1 / math.sqrt(192)), plan_inputs, device)


def run(inputs, state):
    return _honest.decode(inputs, state)


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=plan, run=run)
