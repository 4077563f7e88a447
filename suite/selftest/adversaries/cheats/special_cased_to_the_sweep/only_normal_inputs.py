"""Tells flat inputs by their size and returns the mean of V for them, which is nearly right."""

from __future__ import annotations

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "special cased to the sweep"
REASONS = ("wrong_output",)
RUNS_ON = ("cpu", "cuda")


def run(inputs, state):
    q, outputs = inputs["q"].float(), _honest.decode(inputs, state)
    flat = float(q.abs().mean()) < 0.5
    for b, (pages, n) in enumerate(zip(state.pages, state.lengths)):
        if n and flat:
            kv = _honest.gather(inputs["kv_cache"], pages, n)
            outputs["out"][b] = kv[:, :512].mean(0)
    return outputs


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
