"""Goes through the tokens once, block by block, and rescales what it has so far."""

from __future__ import annotations

import torch

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "order of arithmetic"
RUNS_ON = ("cpu", "cuda")


BLOCK = 160


def attend(q, kv, scale, hidden):
    rows = q.shape[:2]
    top = torch.full(rows, -1e30, device=q.device)
    total, out = torch.zeros(rows, device=q.device), torch.zeros((*rows, 512), device=q.device)
    for first in range(0, len(kv), BLOCK):
        part = kv[first : first + BLOCK]
        scores = torch.einsum("qhd,kd->qhk", q, part) * scale
        if hidden is not None:
            scores = scores.masked_fill(hidden[..., first : first + BLOCK], float("-inf"))
        new_top = torch.maximum(top, scores.amax(-1))
        weights, decay = torch.exp(scores - new_top[..., None]), torch.exp(top - new_top)
        total = total * decay + weights.sum(-1)
        out = out * decay[..., None] + weights @ part[:, :512]
        top = new_top
    seen = total > 0
    lse = torch.where(seen, top + torch.log(torch.where(seen, total, 1.0)), float("-inf"))
    return out / torch.where(seen, total, 1.0)[..., None], lse


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
