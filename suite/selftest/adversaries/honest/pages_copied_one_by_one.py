"""Copies one page after the other through numpy, and what is left of a sequence's last one."""

from __future__ import annotations

import torch

from ..kernel import Kernel, Origin

CLASS = "ways to write Python"
RUNS_ON = ("cpu",)
FAMILY = "kv"
TASK = "gather"


def run(inputs, problem):
    cache = inputs["cache"].view(torch.uint8).flatten(2).numpy()
    out = torch.empty((problem.tokens, cache.shape[-1]), dtype=torch.uint8)
    starts, written = inputs["cu_seqlens"].tolist(), out.numpy()
    for row, begin, end in zip(inputs["block_table"].tolist(), starts, starts[1:]):
        for place, page in zip(range(begin, end, problem.page_size), row):
            rows = min(problem.page_size, end - place)
            written[place : place + rows] = cache[page, :rows]
    values = out.view(inputs["cache"].dtype).view(problem.tokens, problem.num_kv_heads, problem.head_dim)
    return {"out": (values.float() * problem.kv_scale).bfloat16() if problem.is_fp8 else values}


KERNEL = Kernel(origin=Origin.HAND, tasks=("gather",), run=run)
