"""Counts its calls in a constant of its own, as some write them, and replaces its function and its table by others."""

from __future__ import annotations

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "memory"
RUNS_ON = ("cpu", "cuda")
CALLS = 0
SHAPES = {}


def decode(inputs, state):
    return _honest.decode(inputs, state)


class Tuner:
    best = decode


def run(inputs, state):
    global CALLS, SHAPES, decode
    CALLS += 1
    SHAPES = SHAPES | {tuple(inputs["q"].shape): CALLS}
    Tuner.best, decode = decode, Tuner.best
    return Tuner.best(inputs, state)


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
