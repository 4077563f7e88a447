"""Writes its cache rows by assignment through an index, and rounds before it turns keys, as some libraries do."""

from __future__ import annotations

from ..kernel import Kernel, Origin
from . import _torch_ops as ops

CLASS = "caches updated in place"
RUNS_ON = ("cpu", "cuda")
FAMILY = "mlp"
TASK = "qk_append"


def run(inputs, problem):
    q, k, v = ops.qk_normed(inputs, problem, ops.rmsnorm)
    q, k = ops.turned(q, k, inputs)
    inputs["k_cache"].flatten(0, 1)[inputs["slots"]] = k
    inputs["v_cache"].flatten(0, 1)[inputs["slots"]] = v
    return {"q": q}


KERNEL = Kernel(origin=Origin.HAND, tasks=("qk_append",), run=run)
