"""Has PyTorch's own threads compute between its calls, in compiled code that no list of Python's threads shows."""

from __future__ import annotations

import torch

from ..kernel import Kernel, Origin
from . import _frames, _honest

CLASS = "rival slowed"
REASONS = ("outside_interval",)
RUNS_ON = ("cpu",)


@torch.jit.script
def burn(a: torch.Tensor, wanted: torch.Tensor, most: int) -> torch.Tensor:
    count = 0
    while count < most and int(wanted[0]) == 1:
        a = (a @ a).clamp(-1.0, 1.0)
        count += 1
    return a


@torch.jit.script
def start(a: torch.Tensor, wanted: torch.Tensor, most: int):
    return torch.jit.fork(burn, a, wanted, most)


_factor, _wanted, _running = torch.randn(256, 256), torch.zeros(1, dtype=torch.int32), []


def run(inputs, state):
    _wanted[0] = 0
    outputs = _honest.decode(inputs, state)
    if _frames.is_timed():
        _wanted[0] = 1
        _running.append(start(_factor, _wanted, 400))
    return outputs


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
