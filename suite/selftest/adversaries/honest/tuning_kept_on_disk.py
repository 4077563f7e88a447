"""Keeps what it tuned in a file in the temporary folder, as compilers keep their caches."""

from __future__ import annotations

import contextlib
import json
import tempfile
from pathlib import Path

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "first call"
RUNS_ON = ("cpu", "cuda")


def chunk_of(problem):
    path = Path(tempfile.gettempdir()) / "kernelgate-example-tuning.json"
    with contextlib.suppress(OSError, ValueError):
        return int(json.loads(path.read_text())["chunk"])
    with contextlib.suppress(OSError):
        path.write_text(json.dumps({"chunk": 256}))
    return 256


def plan(problem, plan_inputs, device):
    return _honest.plan(problem, plan_inputs, device), chunk_of(problem)


def run(inputs, planned):
    state, _ = planned
    return _honest.decode(inputs, state)


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=plan, run=run)
