"""Gathers the angles of all positions in the first call of a plan, and turns queries and keys by these ever after."""

from __future__ import annotations

import torch

from ..kernel import Kernel, Origin

CLASS = "preparation kept from an earlier call"
REASONS = ("wrong_output",)
RUNS_ON = ("cpu", "cuda")
FAMILY = "mlp"
TASK = "qk_append"


def plan(problem, plan_inputs, device):
    return {"problem": problem}


def run(inputs, state):
    problem = state["problem"]
    if "angles" not in state:
        state["angles"] = inputs["cos_sin"][inputs["positions"]].unsqueeze(1).chunk(2, dim=-1)
    cos, sin = state["angles"]
    heads = inputs["qkv"].view(problem.tokens, -1, problem.head_dim)
    q, k, v = heads.split((problem.num_heads, problem.num_kv_heads, problem.num_kv_heads), dim=1)
    turned = []
    for x, weight in ((q, inputs["q_norm_weight"]), (k, inputs["k_norm_weight"])):
        normed = torch.nn.functional.rms_norm(x, (problem.head_dim,), weight, problem.epsilon)
        a, b = normed.chunk(2, dim=-1)
        turned.append(torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1).to(x.dtype))
    inputs["k_cache"].flatten(0, 1).index_copy_(0, inputs["slots"], turned[1])
    inputs["v_cache"].flatten(0, 1).index_copy_(0, inputs["slots"], v)
    return {"q": turned[0]}


KERNEL = Kernel(origin=Origin.HAND, tasks=("qk_append",), plan=plan, run=run)
