"""Takes the mean square of every eighth column for that of a row, which is nearly right where all are drawn alike."""

from __future__ import annotations

from ..kernel import Kernel, Origin

CLASS = "special cased to the sweep"
REASONS = ("wrong_output",)
RUNS_ON = ("cpu", "cuda")
FAMILY = "mlp"
TASK = "rmsnorm"


def run(inputs, problem):
    x = inputs["x"].float()
    scale = (x[:, ::8].square().mean(-1, keepdim=True) + problem.epsilon).rsqrt()
    return {"out": (x * scale * inputs["weight"].float()).to(inputs["x"].dtype)}


KERNEL = Kernel(origin=Origin.HAND, tasks=("rmsnorm",), run=run)
