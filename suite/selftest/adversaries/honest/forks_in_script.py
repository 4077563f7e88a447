"""Starts scripted work in PyTorch's own threads and waits for it."""

from __future__ import annotations

import torch

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "threads and streams"
RUNS_ON = ("cpu",)


@torch.jit.script
def scores_of(q: torch.Tensor, kv: torch.Tensor) -> torch.Tensor:
    return q @ kv


@torch.jit.script
def forked(q: torch.Tensor, kv: torch.Tensor) -> torch.Tensor:
    future = torch.jit.fork(scores_of, q, kv)
    return torch.jit.wait(future)


def run(inputs, state):
    forked(torch.ones(64, 64), torch.ones(64, 64))
    return _honest.decode(inputs, state)


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
