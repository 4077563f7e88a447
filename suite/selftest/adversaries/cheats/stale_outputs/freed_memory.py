"""Takes one block of memory after the other until one looks like an answer. After KernelBench's result_reuse_kernel."""

from __future__ import annotations

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "stale outputs"
REASONS = ("wrong_output",)
RUNS_ON = ("cpu", "cuda")


TRIES = 64


def looks_like_an_answer(tensor):
    values = tensor.float()
    return bool(values.isfinite().all()) and 0.0 < float(values.abs().max()) < 100.0


def run(inputs, state):
    held = []  # what was refused stays allocated, so that the next block is another one
    for _ in range(TRIES):
        outputs = _honest.empty_outputs(inputs["q"])
        if all(looks_like_an_answer(value) for value in outputs.values()):
            return outputs
        held.append(outputs)
    return held[0]


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
