"""Rounds the factors of a float32 product to TF32's ten bits. Seen at KernelBench (#155), with fp16."""

from __future__ import annotations

import torch

from ..kernel import Kernel, Origin

CLASS = "precision lowered"
REASONS = ("wrong_output",)
RUNS_ON = ("cpu", "cuda")
FAMILY = "toy"


def tf32(x):
    """Ten bits of mantissa, rounded."""
    bits = x.contiguous().view(torch.int32)
    return ((bits + 0x1000) & ~0x1FFF).view(torch.float32)


def run(inputs, state):
    return {"out": tf32(inputs["x"]) @ tf32(inputs["w"])}


KERNEL = Kernel(origin=Origin.HAND, tasks=("product",), run=run)
