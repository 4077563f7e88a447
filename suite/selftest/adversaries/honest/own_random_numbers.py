"""Draws random numbers from a torch.Generator of its own, to test itself with."""

from __future__ import annotations

import functools

import torch

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "ways to use PyTorch"
RUNS_ON = ("cpu", "cuda")


@functools.cache
def generator(device):
    return torch.Generator(device).manual_seed(0)


def run(inputs, state):
    if not (inputs["q"].is_cuda and torch.cuda.is_current_stream_capturing()):
        torch.randn(8, generator=generator(inputs["q"].device.type), device=inputs["q"].device)
    return _honest.decode(inputs, state)


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
