"""Clears the rows of the caches that it will write, and writes them head after head."""

from __future__ import annotations

import torch

from ..kernel import Kernel, Origin
from .reference import stored

CLASS = "caches updated in place"
RUNS_ON = ("cpu",)
FAMILY = "kv"
TASK = "append"


def run(inputs, problem):
    slots = inputs["slot_mapping"]
    written = slots >= 0
    for name, scale in (("k", problem.k_scale), ("v", problem.v_scale)):
        cache = inputs[f"{name}_cache"]
        rows = stored(inputs[name][written], scale, cache.dtype).view(torch.uint8)
        table = cache.view(torch.uint8).flatten(0, 1)
        table[slots[written]] = 0
        for head in range(problem.num_kv_heads):
            table[slots[written], head] = rows[:, head]
    return {}


KERNEL = Kernel(origin=Origin.HAND, tasks=("append",), run=run)
