"""Takes neighbours along the inner dimension for complex numbers: the product is the real part of theirs."""

from __future__ import annotations

import torch

from ..kernel import Kernel, Origin

CLASS = "float32 done otherwise"
RUNS_ON = ("cpu", "cuda")
FAMILY = "toy"


def run(inputs, state):
    x = torch.view_as_complex(inputs["x"].unflatten(1, (-1, 2)))
    w = torch.view_as_complex(inputs["w"].T.contiguous().unflatten(1, (-1, 2)))
    return {"out": (x @ w.conj().T).real.contiguous()}


KERNEL = Kernel(origin=Origin.HAND, tasks=("product",), run=run)
