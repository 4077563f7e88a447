"""Writes its cache rows by assignment through an index, and rounds before it turns keys, as some libraries do."""

from __future__ import annotations

import torch

from ..kernel import Kernel, Origin

CLASS = "caches updated in place"
RUNS_ON = ("cpu", "cuda")
FAMILY = "mlp"
TASK = "qk_append"


def run(inputs, problem):
    cos, sin = inputs["cos_sin"][inputs["positions"]].unsqueeze(1).chunk(2, dim=-1)
    heads = inputs["qkv"].view(problem.tokens, -1, problem.head_dim)
    q, k, v = heads.split((problem.num_heads, problem.num_kv_heads, problem.num_kv_heads), dim=1)
    turned = []
    for x, weight in ((q, inputs["q_norm_weight"]), (k, inputs["k_norm_weight"])):
        normed = torch.nn.functional.rms_norm(x, (problem.head_dim,), weight, problem.epsilon)
        a, b = normed.chunk(2, dim=-1)
        turned.append(torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1).to(x.dtype))
    inputs["k_cache"].flatten(0, 1)[inputs["slots"]] = turned[1]
    inputs["v_cache"].flatten(0, 1)[inputs["slots"]] = v
    return {"q": turned[0]}


KERNEL = Kernel(origin=Origin.HAND, tasks=("qk_append",), run=run)
