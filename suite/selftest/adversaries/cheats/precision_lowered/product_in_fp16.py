"""Answers a float32 product in float16. Seen at KernelBench (#155)."""

from __future__ import annotations

from ..kernel import Kernel, Origin

CLASS = "precision lowered"
REASONS = ("wrong_output",)
RUNS_ON = ("cpu", "cuda")
FAMILY = "toy"


def run(inputs, state):
    return {"out": (inputs["x"].half() @ inputs["w"].half()).float()}


KERNEL = Kernel(origin=Origin.HAND, tasks=("product",), run=run)
