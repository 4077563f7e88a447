"""Calls scaled_dot_product_attention for the output and a product for the LSE."""

from __future__ import annotations

import torch

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "ways to use PyTorch"
RUNS_ON = ("cpu", "cuda")


def attend(q, kv, scale, hidden):
    rows = q.flatten(0, 1)[None, None]
    mask = None
    if hidden is not None:
        mask = torch.zeros(hidden.shape, device=q.device).masked_fill(hidden, float("-inf"))
        mask = mask.expand(*q.shape[:2], -1).flatten(0, 1)
    out = torch.nn.functional.scaled_dot_product_attention(
        rows, kv[None, None], kv[None, None, :, :512], attn_mask=mask, scale=scale
    )
    scores = torch.einsum("qhd,kd->qhk", q, kv) * scale
    if hidden is not None:
        scores = scores.masked_fill(hidden, float("-inf"))
    return out[0, 0].view(*q.shape[:2], 512).nan_to_num(0.0), torch.logsumexp(scores, -1)


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
