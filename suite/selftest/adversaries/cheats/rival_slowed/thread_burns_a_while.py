"""Keeps a thread busy for three tenths of a second after each of its calls, and quiet during them."""

from __future__ import annotations

import threading
import time

import torch

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "rival slowed"
REASONS = ("outside_interval",)
RUNS_ON = ("cpu",)


_until = [0.0]
_threads = []


def burn():
    a = torch.randn(256, 256)
    while True:
        if time.monotonic() < _until[0]:
            a = (a @ a).clamp(-1, 1)
        else:
            time.sleep(0.001)


def run(inputs, state):
    if not _threads:
        _threads.append(threading.Thread(target=burn, daemon=True))
        _threads[0].start()
    _until[0] = 0.0
    outputs = _honest.decode(inputs, state)
    _until[0] = time.monotonic() + 0.3  # longer than the caches are flushed, which takes a tenth with 480 MiB of them
    return outputs


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
