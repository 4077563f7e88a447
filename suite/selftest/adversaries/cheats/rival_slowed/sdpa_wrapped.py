"""Replaces scaled_dot_product_attention, which its rivals call, by a slow one."""

from __future__ import annotations

import time

import torch

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "rival slowed"
REASONS = ("tampered",)
RUNS_ON = ("cpu", "cuda")


_sdpa = torch.nn.functional.scaled_dot_product_attention


def slow_sdpa(*args, **kwargs):
    time.sleep(0.002)
    return _sdpa(*args, **kwargs)


def run(inputs, state):
    torch.nn.functional.scaled_dot_product_attention = slow_sdpa
    return _honest.decode(inputs, state)


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
