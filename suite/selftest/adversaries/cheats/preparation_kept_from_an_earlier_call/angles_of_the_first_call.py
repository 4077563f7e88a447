"""Gathers the angles of all positions in the first call of a plan, and turns queries and keys by these ever after."""

from __future__ import annotations

from ..kernel import Kernel, Origin
from . import _torch_ops as ops

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
        state["angles"] = inputs["cos_sin"][inputs["positions"]]
    q, k, v = ops.qk_normed(inputs, problem, ops.rmsnorm)
    q, k = ops.turned(q, k, {"cos_sin": state["angles"], "positions": slice(None)})  # a view: nothing is gathered
    ops.write_rows(inputs["k_cache"], inputs["slots"], k)
    ops.write_rows(inputs["v_cache"], inputs["slots"], v)
    return {"q": q}


KERNEL = Kernel(origin=Origin.HAND, tasks=("qk_append",), plan=plan, run=run)
