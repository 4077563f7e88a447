"""Writes over what the harness has kept of its rival's outputs: who was faster is then out, as wrong."""

from __future__ import annotations

from ..kernel import Kernel, Origin
from . import _frames, _honest

CLASS = "rival slowed"
REASONS = ("tampered",)
RUNS_ON = ("cpu",)


def run(inputs, state):
    for sequence in _frames.callers_objects("kept"):
        for entry in sequence.kept:
            if entry["kernel"] != sequence.order[-1]:
                with open(entry["outputs"]["out"]["file"], "r+b") as file:
                    file.write(bytes(4096))
    return _honest.decode(inputs, state)


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
