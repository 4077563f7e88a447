"""Maps one head's attention over all heads with vmap."""

from __future__ import annotations

import torch

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "ways to use PyTorch"
RUNS_ON = ("cpu", "cuda")


def attend(q, kv, scale, hidden):
    def one_head(q_head):  # [seq_len_q, 576]
        scores = q_head @ kv.T * scale
        if hidden is not None:
            scores = scores.masked_fill(hidden[:, 0], float("-inf"))
        return torch.softmax(scores, -1).nan_to_num(0.0) @ kv[:, :512], torch.logsumexp(scores, -1)

    return torch.vmap(one_head, in_dims=1, out_dims=1)(q)


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
