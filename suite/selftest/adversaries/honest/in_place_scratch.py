"""Does all arithmetic in place, on memory of its own."""

from __future__ import annotations

import torch

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "memory"
RUNS_ON = ("cpu", "cuda")


def attend(q, kv, scale, hidden):
    scores = torch.einsum("qhd,kd->qhk", q, kv).mul_(scale)
    if hidden is not None:
        scores.masked_fill_(hidden, float("-inf"))
    lse = torch.logsumexp(scores, -1)
    scores.sub_(torch.where(lse.isinf(), 0.0, lse)[..., None]).exp_()
    return scores @ kv[:, :512], lse


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
