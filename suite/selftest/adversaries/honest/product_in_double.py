"""Computes a float32 product in double precision."""

from __future__ import annotations

from ..kernel import Kernel, Origin

CLASS = "float32 done otherwise"
RUNS_ON = ("cpu", "cuda")
FAMILY = "toy"


def run(inputs, state):
    return {"out": (inputs["x"].double() @ inputs["w"].double()).float()}


KERNEL = Kernel(origin=Origin.HAND, tasks=("product",), run=run)
