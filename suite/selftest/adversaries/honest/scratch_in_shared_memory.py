"""Keeps its scratch in memory that processes may share, by name, and unlinks it before it returns."""

from __future__ import annotations

from multiprocessing.shared_memory import SharedMemory

import numpy as np
import torch

from ..kernel import Kernel, Origin

CLASS = "memory"
RUNS_ON = ("cpu",)
FAMILY = "toy"


def run(inputs, state):
    x, w = inputs["x"].numpy(), inputs["w"].numpy()
    scratch = SharedMemory(create=True, size=4 * len(x) * w.shape[1])
    try:
        product = np.ndarray((len(x), w.shape[1]), np.float32, scratch.buf)
        np.matmul(x, w, out=product)
        out = torch.from_numpy(product.copy())
        del product
    finally:
        scratch.close()
        scratch.unlink()
    return {"out": out}


KERNEL = Kernel(origin=Origin.HAND, tasks=("product",), run=run)
