"""Registers an operator in a namespace of its own and calls itself through the dispatcher."""

from __future__ import annotations

import torch

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "ways to use PyTorch"
RUNS_ON = ("cpu", "cuda")


@torch.library.custom_op("kernelgate_example::attend", mutates_args=())
def attend_op(q: torch.Tensor, kv: torch.Tensor, scale: float) -> list[torch.Tensor]:
    out, lse = _honest.attend(q, kv, scale)
    return [out.contiguous(), lse.contiguous()]


def attend(q, kv, scale, hidden):
    if hidden is not None:
        return _honest.attend(q, kv, scale, hidden)
    out, lse = torch.ops.kernelgate_example.attend(q.contiguous(), kv, scale)
    return out, lse


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
