"""Wraps its forward pass into a torch.autograd.Function."""

from __future__ import annotations

import torch

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "ways to use PyTorch"
RUNS_ON = ("cpu", "cuda")


class Attend(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, kv, scale, hidden):
        return _honest.attend(q, kv, scale, hidden)

    @staticmethod
    def backward(ctx, *gradients):
        raise NotImplementedError


attend = Attend.apply


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
