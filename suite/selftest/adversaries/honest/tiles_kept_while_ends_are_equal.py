"""Keeps where every expert's rows end as numbers of the host, as long as the tensor still says the same."""

from __future__ import annotations

import torch

from ..kernel import Kernel, Origin

CLASS = "state kept between calls"
RUNS_ON = ("cpu", "cuda")
FAMILY = "moe"
TASK = "grouped_gemm"


_kept = {}


def supports(problem, device):
    return "it has no product of 8-bit blocks" if problem.is_fp8 else None


def run(inputs, problem):
    ends = inputs["expert_ends"]
    known = _kept.get(problem.id)
    if known is None or not torch.equal(known[0], ends):
        _kept[problem.id] = known = (ends.clone(), ends.tolist())
    x, w13, start = inputs["x"], inputs["w13"], 0
    h = x.new_empty((len(x), w13.shape[1] // 2))
    for expert, end in enumerate(known[1]):
        if end > start:
            gate, up = torch.nn.functional.linear(x[start:end], w13[expert]).chunk(2, dim=-1)
            h[start:end] = torch.nn.functional.silu(gate) * up
        start = end
    return {"h": h}


KERNEL = Kernel(origin=Origin.HAND, tasks=("grouped_gemm",), run=run, supports=supports)
