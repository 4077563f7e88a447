"""Visits blocks of tokens in an order that its own generator draws anew in each call."""

from __future__ import annotations

import random

import torch

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "order of arithmetic"
RUNS_ON = ("cpu", "cuda")


_generator = random.Random(0)
BLOCK = 200


def attend(q, kv, scale, hidden):
    starts = list(range(0, len(kv), BLOCK))
    _generator.shuffle(starts)
    parts = [
        _honest.attend(q, kv[s : s + BLOCK], scale, None if hidden is None else hidden[..., s : s + BLOCK])
        for s in starts
    ]
    lses = torch.stack([lse for _, lse in parts])
    lse = torch.logsumexp(lses, 0)
    weights = torch.exp(lses - torch.where(lse.isinf(), 0.0, lse))
    return (weights[..., None] * torch.stack([out for out, _ in parts])).sum(0), lse


def run(inputs, state):
    q, outputs = inputs["q"].float(), _honest.empty_outputs(inputs["q"])
    outputs["out"].zero_()
    outputs["lse"].fill_(float("-inf"))
    for b, (pages, n) in enumerate(zip(state.pages, state.lengths)):
        if n:
            hidden = state.hidden[b] if state.problem.seq_len_q > 1 else None
            kv = _honest.gather(inputs["kv_cache"], pages, n)
            outputs["out"][b], outputs["lse"][b] = attend(q[b], kv, state.problem.softmax_scale, hidden)
    return outputs


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
