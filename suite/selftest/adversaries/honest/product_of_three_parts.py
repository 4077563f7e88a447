"""Splits factors into three bfloat16 numbers each and keeps six of nine products: 24 bits, as tensor cores can."""

from __future__ import annotations

from ..kernel import Kernel, Origin

CLASS = "float32 done otherwise"
RUNS_ON = ("cpu", "cuda")
FAMILY = "toy"


def parts(x):
    high = x.bfloat16().float()
    middle = (x - high).bfloat16().float()
    return high, middle, (x - high - middle).bfloat16().float()


def run(inputs, state):
    (a, b, c), (d, e, f) = parts(inputs["x"]), parts(inputs["w"])
    return {"out": (c @ d + b @ e + a @ f) + (b @ d + a @ e) + a @ d}


KERNEL = Kernel(origin=Origin.HAND, tasks=("product",), run=run)
