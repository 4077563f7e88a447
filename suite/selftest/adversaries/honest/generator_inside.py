"""Yields one sequence's answer after the other from a generator."""

from __future__ import annotations

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "ways to write Python"
RUNS_ON = ("cpu", "cuda")


def answers(inputs, state):
    for b, (pages, n) in enumerate(zip(state.pages, state.lengths)):
        if n:
            kv = _honest.gather(inputs["kv_cache"], pages, n)
            hidden = state.hidden[b] if state.problem.seq_len_q > 1 else None
            yield b, *_honest.attend(inputs["q"][b].float(), kv, state.problem.softmax_scale, hidden)


def run(inputs, state):
    outputs = _honest.empty_outputs(inputs["q"])
    outputs["out"].zero_()
    outputs["lse"].fill_(float("-inf"))
    for b, out, lse in answers(inputs, state):
        outputs["out"][b], outputs["lse"][b] = out, lse
    return outputs


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
