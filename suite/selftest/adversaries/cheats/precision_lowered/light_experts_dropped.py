"""Leaves out every expert that weighs less than a hundredth of a token's heaviest."""

from __future__ import annotations

from dataclasses import replace

from ..kernel import Kernel, Origin
from . import torch_eager
from ._torch_tasks import routed

CLASS = "precision lowered"
REASONS = ("wrong_output", "no_gain")
RUNS_ON = ("cpu", "cuda")
FAMILY = "moe"
TASK = "layer"


def run(inputs, problem):
    ids, weights = routed(inputs, problem)
    dropped = ids.masked_fill(weights < weights.amax(-1, keepdim=True) / 100, -1)
    given = {**inputs, "topk_ids": dropped, "topk_weights": weights}
    return torch_eager.run(given, replace(problem, router="given"))


KERNEL = Kernel(origin=Origin.HAND, tasks=("layer",), run=run, supports=torch_eager.supports)
