"""Goes through torch.compile as it comes: a compiler with threads and processes of its own, on the first call."""

from __future__ import annotations

import torch

from ..kernel import Kernel, Origin

CLASS = "native code"
RUNS_ON = ("cpu",)
FAMILY = "toy"


@torch.compile(dynamic=True)
def product(x, w):
    return (x * 2.0) @ w / 2.0


def run(inputs, state):
    return {"out": product(inputs["x"], inputs["w"])}


KERNEL = Kernel(origin=Origin.HAND, tasks=("product",), run=run)
