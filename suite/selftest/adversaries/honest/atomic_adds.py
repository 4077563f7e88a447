"""Adds up blocks of tokens with index_add_, in an order that a GPU does not promise."""

from __future__ import annotations

import torch

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "order of arithmetic"
RUNS_ON = ("cpu", "cuda")


BLOCK = 128


def attend(q, kv, scale, hidden):
    scores = torch.einsum("qhd,kd->qhk", q, kv) * scale
    if hidden is not None:
        scores = scores.masked_fill(hidden, float("-inf"))
    weights = torch.softmax(scores, -1).nan_to_num(0.0)
    parts = torch.stack([w @ v for w, v in zip(weights.split(BLOCK, -1), kv[:, :512].split(BLOCK))])
    out = torch.zeros((1, *parts.shape[1:]), device=q.device)
    out.index_add_(0, torch.zeros(len(parts), dtype=torch.int64, device=q.device), parts)
    return out[0], torch.logsumexp(scores, -1)


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
