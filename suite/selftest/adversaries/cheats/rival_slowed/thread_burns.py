"""Keeps a thread busy on the CPU between its calls."""

from __future__ import annotations

import threading

import torch

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "rival slowed"
REASONS = ("outside_interval", "no_gain")
RUNS_ON = ("cpu", "cuda")


_threads = []


def burn():
    a = torch.randn(256, 256)
    while True:
        a = (a @ a).clamp(-1, 1)


def run(inputs, state):
    if not _threads:
        _threads.append(threading.Thread(target=burn, daemon=True))
        _threads[0].start()
    return _honest.decode(inputs, state)


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
