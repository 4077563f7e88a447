"""Splits the tokens in two until a piece is small, and merges the answers of the pieces."""

from __future__ import annotations

import torch

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "order of arithmetic"
RUNS_ON = ("cpu", "cuda")


def attend(q, kv, scale, hidden):
    if len(kv) <= 300:
        return _honest.attend(q, kv, scale, hidden)
    half = len(kv) // 2
    cut = (None, None) if hidden is None else (hidden[..., :half], hidden[..., half:])
    (a, lse_a), (b, lse_b) = attend(q, kv[:half], scale, cut[0]), attend(q, kv[half:], scale, cut[1])
    lse = torch.logaddexp(lse_a, lse_b)
    base = torch.where(lse.isinf(), 0.0, lse)
    return torch.exp(lse_a - base)[..., None] * a + torch.exp(lse_b - base)[..., None] * b, lse


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
