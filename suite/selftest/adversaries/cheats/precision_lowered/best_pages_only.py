"""Attends to the half of the pages whose mean row scores best: sparse attention passed off as dense."""

from __future__ import annotations

import torch

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "precision lowered"
REASONS = ("wrong_output",)
RUNS_ON = ("cpu", "cuda")


def attend(q, kv, state, b):
    hidden = state.hidden[b] if state.problem.seq_len_q > 1 else None
    size = state.problem.page_size
    means = torch.stack([part.mean(0) for part in kv.split(size)])
    best = (q.mean((0, 1)) @ means.T).topk((len(means) + 1) // 2).indices
    keep = torch.isin(torch.arange(len(kv), device=kv.device) // size, best)
    cut = None if hidden is None else hidden[..., keep]
    return _honest.attend(q, kv[keep], state.problem.softmax_scale, cut)


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
