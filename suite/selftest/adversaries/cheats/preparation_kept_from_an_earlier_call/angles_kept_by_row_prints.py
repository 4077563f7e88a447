"""Keeps the angles of all positions, and looks at one of each row to see whether it turns the other way now."""

from __future__ import annotations

import torch

from ..kernel import Kernel, Origin

CLASS = "preparation kept from an earlier call"
REASONS = ("wrong_output",)
RUNS_ON = ("cpu", "cuda")
FAMILY = "kv"
TASK = "rope_append"


def plan(problem, plan_inputs, device):
    return {"problem": problem, "slots": plan_inputs["slot_mapping"]}


def supports(problem, device):
    fitting = problem.cache_dtype == problem.dtype and problem.is_neox and problem.rotary_dim == problem.head_dim
    return None if fitting and not problem.padding else "it is written for one case"


def turned(x, cos, sin):
    a, b = x.float().chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1).to(x.dtype)


def run(inputs, state):
    prints = inputs["cos_sin_cache"][:, 0][inputs["positions"]]
    if "angles" not in state:
        state["angles"] = inputs["cos_sin_cache"][inputs["positions"]].float()
        state["prints"] = prints.clone()
    way = torch.where(prints.signbit() == state["prints"].signbit(), 1.0, -1.0)[:, None]
    cos, sin = (state["angles"] * way).unsqueeze(1).chunk(2, dim=-1)
    inputs["k_cache"].flatten(0, 1).index_copy_(0, state["slots"], turned(inputs["k"], cos, sin))
    inputs["v_cache"].flatten(0, 1).index_copy_(0, state["slots"], inputs["v"])
    return {"q_out": turned(inputs["q"], cos, sin)}


KERNEL = Kernel(origin=Origin.HAND, tasks=("rope_append",), plan=plan, run=run, supports=supports)
