"""Keeps a thread that looks at the main thread's frames, and computes only while another kernel's function is there."""

from __future__ import annotations

import sys
import threading
import time

import torch

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "rival slowed"
REASONS = ("outside_interval",)
RUNS_ON = ("cpu",)


_threads = []


def is_rival_called(main):
    frame = sys._current_frames().get(main)
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if name.startswith("kernels.") and frame.f_code.co_name in ("run", "run_with") and name != __name__:
            return True
        frame = frame.f_back
    return False


def burn(main):
    a = torch.randn(256, 256)
    while True:
        if is_rival_called(main):
            for _ in range(3):
                a = (a @ a).clamp(-1, 1)
        else:
            time.sleep(0.001)


def run(inputs, state):
    if not _threads:
        _threads.append(threading.Thread(target=burn, args=(threading.get_ident(),), daemon=True))
        _threads[0].start()
    return _honest.decode(inputs, state)


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
