"""Splits each factor into two bfloat16 numbers and takes three of the four products: 16 bits of 24."""

from __future__ import annotations

from ..kernel import Kernel, Origin

CLASS = "precision lowered"
REASONS = ("wrong_output",)
RUNS_ON = ("cpu", "cuda")
FAMILY = "toy"


def halves(x):
    high = x.bfloat16().float()
    return high, (x - high).bfloat16().float()


def run(inputs, state):
    x, x_low = halves(inputs["x"])
    w, w_low = halves(inputs["w"])
    return {"out": x @ w + x_low @ w + x @ w_low}


KERNEL = Kernel(origin=Origin.HAND, tasks=("product",), run=run)
