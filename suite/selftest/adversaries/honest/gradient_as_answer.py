"""Lets autograd compute the product: it is the gradient of a sum, outside of inference mode."""

from __future__ import annotations

import torch

from ..kernel import Kernel, Origin

CLASS = "ways to use PyTorch"
RUNS_ON = ("cpu", "cuda")
FAMILY = "toy"


def run(inputs, state):
    with torch.inference_mode(False), torch.enable_grad():
        x, w = inputs["x"].clone(), inputs["w"].clone()
        weights = x.new_ones(len(x), w.shape[1], requires_grad=True)
        (gradient,) = torch.autograd.grad((weights * (x @ w)).sum(), weights)
    return {"out": gradient}


KERNEL = Kernel(origin=Origin.HAND, tasks=("product",), run=run)
