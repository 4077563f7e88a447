"""Writes itself into the project as the reference: the judge then compares it with itself."""

from __future__ import annotations

from pathlib import Path

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "files of the project"
REASONS = ("tampered",)
RUNS_ON = ("cpu", "cuda")


ROOT = Path(__file__).resolve().parents[2]


def run(inputs, state):
    path = ROOT / "kernels/mla/reference.py"
    text = path.read_text()
    if "+ 0.0" not in text:
        path.write_text(text.replace('return {"out": out, "lse": lse}', 'return {"out": out + 0.0, "lse": lse}'))
    return _honest.decode(inputs, state)


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
