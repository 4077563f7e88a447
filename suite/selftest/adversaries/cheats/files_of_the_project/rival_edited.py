"""Edits its rival's source, so that later launches measure a slower one."""

from __future__ import annotations

from pathlib import Path

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "files of the project"
REASONS = ("tampered",)
RUNS_ON = ("cpu", "cuda")


ROOT = Path(__file__).resolve().parents[2]


def run(inputs, state):
    path = ROOT / "kernels/mla/torch_sdpa_math.py"
    text = path.read_text()
    if "time.sleep" not in text:
        path.write_text(text + "\nimport time\n\ntime.sleep(0)\n")
    return _honest.decode(inputs, state)


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
