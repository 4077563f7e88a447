"""Derives every row number of the cache from the block table while it plans, as plans may."""

from __future__ import annotations

import torch

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "ways to use PyTorch"
RUNS_ON = ("cpu", "cuda")


def plan(problem, plan_inputs, device):
    state = _honest.plan(problem, plan_inputs, device)
    offsets = torch.arange(problem.page_size, device=plan_inputs["block_table"].device)
    rows = [(p[:, None] * problem.page_size + offsets).flatten()[:n] for p, n in zip(state.pages, state.lengths)]
    return state, rows


def run(inputs, planned):
    state, rows = planned
    flat, outputs = inputs["kv_cache"].flatten(0, 1), _honest.empty_outputs(inputs["q"])
    outputs["out"].zero_()
    outputs["lse"].fill_(float("-inf"))
    for b, index in enumerate(rows):
        if len(index):
            hidden = state.hidden[b] if state.problem.seq_len_q > 1 else None
            kv = flat.view(torch.uint8).index_select(0, index).view(flat.dtype).float()
            outputs["out"][b], outputs["lse"][b] = _honest.attend(
                inputs["q"][b].float(), kv, state.problem.softmax_scale, hidden
            )
    return outputs


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=plan, run=run)
