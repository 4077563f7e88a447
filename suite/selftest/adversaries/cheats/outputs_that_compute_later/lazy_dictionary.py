"""Returns a dictionary of its own class, which computes when it is first read."""

from __future__ import annotations

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "outputs that compute later"
REASONS = ("wrong_form",)
RUNS_ON = ("cpu", "cuda")


class Lazy(dict):
    def __init__(self, inputs, state):
        super().__init__(_honest.empty_outputs(inputs["q"]))
        self.owed = (inputs, state)

    def items(self):
        if self.owed:
            inputs, state = self.owed
            self.owed = None
            _honest.decode(inputs, state, dict(super().items()))
        return super().items()


def run(inputs, state):
    return Lazy(inputs, state)


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
