"""Sums products in a Triton kernel that is compiled for each block size it meets."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "ways to use PyTorch"
RUNS_ON = ("cuda",)


@triton.jit
def _scale(values, out, scale, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + at, tl.load(values + at, mask=at < n) * scale, mask=at < n)


def scaled(values, scale):
    out, n = torch.empty_like(values), values.numel()
    _scale[(triton.cdiv(n, 1024),)](values, out, scale, n, BLOCK=1024)
    return out


def attend(q, kv, scale, hidden):
    return _honest.attend(scaled(q.contiguous(), scale), kv, 1.0, hidden)


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
