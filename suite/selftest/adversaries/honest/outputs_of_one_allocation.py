"""Allocates once and returns two parts of it, one after the other, which do not overlap."""

from __future__ import annotations

import torch

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "form of outputs"
RUNS_ON = ("cpu", "cuda")


def run(inputs, state):
    q = inputs["q"]
    rows = q.shape[:3]
    num_bytes = rows.numel() * _honest.KV_LORA_RANK * q.element_size()
    both = torch.empty(num_bytes + 4 * rows.numel(), dtype=torch.uint8, device=q.device)
    out = both[:num_bytes].view(q.dtype).view(*rows, _honest.KV_LORA_RANK)
    lse = both[num_bytes:].view(torch.float32).view(rows)
    return _honest.decode(inputs, state, {"out": out, "lse": lse})


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
