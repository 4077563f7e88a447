"""Keeps the gathered cache as long as every 509th row of it is what it was."""

from __future__ import annotations

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "preparation kept from an earlier call"
REASONS = ("wrong_output",)
RUNS_ON = ("cpu", "cuda")


_kept = {}


def prepare(inputs, state):
    cache = inputs["kv_cache"]
    return [_honest.gather(cache, pages, n) for pages, n in zip(state.pages, state.lengths)]


def run(inputs, state):
    key = (state.problem.id, float(inputs["kv_cache"].flatten(0, 1)[::509].double().sum()))
    if key not in _kept:
        _kept[key] = prepare(inputs, state)
    q, outputs = inputs["q"], _honest.empty_outputs(inputs["q"])
    outputs["out"].zero_()
    outputs["lse"].fill_(float("-inf"))
    for b, kv in enumerate(_kept[key]):
        if len(kv):
            hidden = state.hidden[b] if state.problem.seq_len_q > 1 else None
            outputs["out"][b], outputs["lse"][b] = _honest.attend(q[b].float(), kv, state.problem.softmax_scale, hidden)
    return outputs


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
