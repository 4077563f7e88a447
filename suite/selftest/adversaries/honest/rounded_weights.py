"""Rounds the probabilities to the dtype of the cache before it multiplies with V, as every fast kernel does."""

from __future__ import annotations

import torch

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "order of arithmetic"
RUNS_ON = ("cpu", "cuda")


def run(inputs, state):
    q, outputs = inputs["q"], _honest.empty_outputs(inputs["q"])
    outputs["out"].zero_()
    outputs["lse"].fill_(float("-inf"))
    for b, (pages, n) in enumerate(zip(state.pages, state.lengths)):
        if n:
            kv = _honest.gather(inputs["kv_cache"], pages, n)
            scores = torch.einsum("qhd,kd->qhk", q[b].float(), kv) * state.problem.softmax_scale
            if state.problem.seq_len_q > 1:
                scores = scores.masked_fill(state.hidden[b], float("-inf"))
            weights = torch.softmax(scores, -1).nan_to_num(0.0).to(q.dtype).float()
            outputs["out"][b], outputs["lse"][b] = weights @ kv[:, :512], torch.logsumexp(scores, -1)
    return outputs


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
