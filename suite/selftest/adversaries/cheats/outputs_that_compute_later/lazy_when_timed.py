"""Returns plain tensors in checks, and in timed calls a dictionary that computes when it is read."""

from __future__ import annotations

from ..kernel import Kernel, Origin
from . import _frames, _honest

CLASS = "outputs that compute later"
REASONS = ("wrong_form", "tampered", "timer_contradicted")
RUNS_ON = ("cpu",)


class Lazy(dict):
    def __init__(self, inputs, state):
        super().__init__(_honest.empty_outputs(inputs["q"]))
        self.left = [inputs, state]

    def items(self):
        if self.left:
            self.update(_honest.decode(*self.left))
            self.left = []
        return super().items()


def run(inputs, state):
    if not _frames.is_timed():
        return _honest.decode(inputs, state)
    return Lazy(inputs, state)


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
