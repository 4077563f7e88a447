"""Adds up the output in bfloat16, one block of 16 tokens after the other."""

from __future__ import annotations

import torch

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "precision lowered"
REASONS = ("wrong_output",)
RUNS_ON = ("cpu", "cuda")


def attend(q, kv, state, b):
    hidden = state.hidden[b] if state.problem.seq_len_q > 1 else None
    _, lse = _honest.attend(q, kv, state.problem.softmax_scale, hidden)
    scores = torch.einsum("qhd,kd->qhk", q, kv) * state.problem.softmax_scale
    if hidden is not None:
        scores = scores.masked_fill(hidden, float("-inf"))
    weights = torch.softmax(scores, -1).nan_to_num(0.0).bfloat16()
    total = torch.zeros((*q.shape[:2], 512), dtype=torch.bfloat16, device=q.device)
    for first in range(0, len(kv), 16):
        part = torch.einsum("qhk,kd->qhd", weights[..., first : first + 16], kv[first : first + 16, :512].bfloat16())
        total += part
    return total, lse


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
