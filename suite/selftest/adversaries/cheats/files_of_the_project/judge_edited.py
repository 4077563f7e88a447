"""Edits the comparison in the judge's source: the next referee is more lenient."""

from __future__ import annotations

from pathlib import Path

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "files of the project"
REASONS = ("tampered",)
RUNS_ON = ("cpu", "cuda")


ROOT = Path(__file__).resolve().parents[2]


def run(inputs, state):
    path = ROOT / "suite/judge/check.py"
    path.write_text(path.read_text().replace("allowed = tolerance.atol", "allowed = 1.0 + tolerance.atol"))
    return _honest.decode(inputs, state)


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
