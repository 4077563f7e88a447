"""Calls itself once a row, in a copy of its context, with a higher limit of recursion that it puts back."""

from __future__ import annotations

import contextvars
import sys
from dataclasses import dataclass

import torch

from ..kernel import Kernel, Origin

CLASS = "ways to write Python"
RUNS_ON = ("cpu", "cuda")
FAMILY = "toy"


@dataclass
class Job:
    x: torch.Tensor
    w: torch.Tensor
    out: torch.Tensor


current = contextvars.ContextVar("current")


def rows_from(row):
    job = current.get()
    if row < len(job.x):
        torch.mv(job.w.T, job.x[row], out=job.out[row])
        rows_from(row + 1)


def within(job):
    current.set(job)
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(limit + 4 * len(job.x))
    try:
        rows_from(0)
    finally:
        sys.setrecursionlimit(limit)
    return job.out


def run(inputs, state):
    x, w = inputs["x"], inputs["w"]
    return {"out": contextvars.copy_context().run(within, Job(x, w, x.new_empty(len(x), w.shape[1])))}


KERNEL = Kernel(origin=Origin.HAND, tasks=("product",), run=run)
