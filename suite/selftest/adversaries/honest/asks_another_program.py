"""Starts another program while it plans, waits for it and reads what it says, as just-in-time builds do."""

from __future__ import annotations

import functools
import subprocess
import sys

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "first call"
RUNS_ON = ("cpu", "cuda")


@functools.cache
def answer():
    done = subprocess.run([sys.executable, "-c", "print(256)"], capture_output=True, text=True, check=True)
    return int(done.stdout)


def plan(problem, plan_inputs, device):
    answer()
    return _honest.plan(problem, plan_inputs, device)


def run(inputs, state):
    return _honest.decode(inputs, state)


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=plan, run=run)
