"""Keeps a transposed copy of the weights by their address."""

from __future__ import annotations

import torch

from ..kernel import Kernel, Origin

CLASS = "preparation kept from an earlier call"
REASONS = ("wrong_output",)
RUNS_ON = ("cpu", "cuda")
FAMILY = "toy"


_kept = {}


def run(inputs, state):
    w = inputs["w"]
    key = (w.data_ptr(), w.shape)
    if key not in _kept:
        _kept[key] = w.T.contiguous()
    return {"out": torch.nn.functional.linear(inputs["x"], _kept[key])}


KERNEL = Kernel(origin=Origin.HAND, tasks=("product",), run=run)
