"""Computes the first sequence afresh, and takes the others' answers from the first call."""

from __future__ import annotations

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "stale outputs"
REASONS = ("wrong_output",)
RUNS_ON = ("cpu", "cuda")


_answers = {}


def run(inputs, state):
    if state.problem.id not in _answers:
        _answers[state.problem.id] = _honest.decode(inputs, state)
        return {name: value.clone() for name, value in _answers[state.problem.id].items()}
    outputs = {name: value.clone() for name, value in _answers[state.problem.id].items()}
    kv = _honest.gather(inputs["kv_cache"], state.pages[0], state.lengths[0])
    out, lse = _honest.attend(inputs["q"][0].float(), kv, state.problem.softmax_scale)
    outputs["out"][0], outputs["lse"][0] = out, lse
    return outputs


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
