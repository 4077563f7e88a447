"""Leaves out every token whose weight is below a thousandth of the greatest."""

from __future__ import annotations

import torch

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "precision lowered"
REASONS = ("wrong_output",)
RUNS_ON = ("cpu", "cuda")


def attend(q, kv, state, b):
    hidden = state.hidden[b] if state.problem.seq_len_q > 1 else None
    scores = torch.einsum("qhd,kd->qhk", q, kv) * state.problem.softmax_scale
    if hidden is not None:
        scores = scores.masked_fill(hidden, float("-inf"))
    small = scores < scores.amax(-1, keepdim=True) - 5.0
    scores = scores.masked_fill(small, float("-inf"))
    return torch.softmax(scores, -1).nan_to_num(0.0) @ kv[:, :512], torch.logsumexp(scores, -1)


def run(inputs, state):
    q, outputs = inputs["q"].float(), _honest.empty_outputs(inputs["q"])
    outputs["out"].zero_()
    outputs["lse"].fill_(float("-inf"))
    for b, (pages, n) in enumerate(zip(state.pages, state.lengths)):
        if n:
            kv = _honest.gather(inputs["kv_cache"], pages, n)
            outputs["out"][b], outputs["lse"][b] = attend(q[b], kv, state, b)
    return outputs


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
