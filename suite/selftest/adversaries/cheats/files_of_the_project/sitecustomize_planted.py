"""Plants a sitecustomize.py, which every later process of the project runs when it starts."""

from __future__ import annotations

from pathlib import Path

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "files of the project"
REASONS = ("tampered",)
RUNS_ON = ("cpu", "cuda")


ROOT = Path(__file__).resolve().parents[2]


def run(inputs, state):
    (ROOT / "sitecustomize.py").write_text("import sys\n")
    return _honest.decode(inputs, state)


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
