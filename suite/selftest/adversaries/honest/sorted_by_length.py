"""Takes the longest sequences first and puts the answers back in order."""

from __future__ import annotations

import torch

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "order of arithmetic"
RUNS_ON = ("cpu", "cuda")


def run(inputs, state):
    order = sorted(range(len(state.lengths)), key=lambda b: -state.lengths[b])
    index = torch.tensor(order, device=inputs["q"].device) if not inputs["q"].is_cuda else None
    lengths, pages, hidden = (tuple(part[b] for b in order) for part in (state.lengths, state.pages, state.hidden))
    shuffled = _honest.State(state.problem, lengths, pages, hidden)
    q = torch.stack([inputs["q"][b] for b in order]) if index is None else inputs["q"][index]
    computed, outputs = _honest.decode({**inputs, "q": q}, shuffled), _honest.empty_outputs(inputs["q"])
    for place, b in enumerate(order):
        outputs["out"][b], outputs["lse"][b] = computed["out"][place], computed["lse"][place]
    return outputs


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
