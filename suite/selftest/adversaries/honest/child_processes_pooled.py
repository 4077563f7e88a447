"""Spreads its rows over processes that it forked on the first call, waits for all of them, and leaves them idle."""

from __future__ import annotations

import functools
import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import torch

from ..kernel import Kernel, Origin

CLASS = "threads and streams"
RUNS_ON = ("cpu",)
FAMILY = "toy"


@functools.cache
def pool():
    return ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork"))


def run(inputs, state):
    x, w = inputs["x"].numpy(), inputs["w"].numpy()
    parts = pool().map(np.matmul, np.array_split(x, 2), [w, w])
    return {"out": torch.from_numpy(np.concatenate(list(parts)))}


KERNEL = Kernel(origin=Origin.HAND, tasks=("product",), run=run)
