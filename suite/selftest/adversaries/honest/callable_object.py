"""Its run is an object with a call operator that counts its calls."""

from __future__ import annotations

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "ways to write Python"
RUNS_ON = ("cpu", "cuda")


class Decode:
    def __init__(self):
        self.calls = 0

    def __call__(self, inputs, state):
        self.calls += 1
        return _honest.decode(inputs, state)


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=Decode())
