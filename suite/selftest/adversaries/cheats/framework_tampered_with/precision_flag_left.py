"""Allows reduced precision in the whole process, in timed calls only."""

from __future__ import annotations

import torch

from ..kernel import Kernel, Origin

CLASS = "framework tampered with"
REASONS = ("tampered",)
RUNS_ON = ("cpu", "cuda")
FAMILY = "toy"


CALLS_OF_CHECKS = 8
_calls = 0


def run(inputs, state):
    global _calls
    _calls += 1
    if _calls > CALLS_OF_CHECKS or inputs["x"].is_cuda:
        torch.set_float32_matmul_precision("medium")
    return {"out": inputs["x"] @ inputs["w"]}


KERNEL = Kernel(origin=Origin.HAND, tasks=("product",), run=run)
