"""A thread spoils the cache for a moment after each call and restores it: the rival meets it spoilt."""

from __future__ import annotations

import threading
import time

import torch

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "inputs changed"
REASONS = ("inputs_changed", "outside_interval")
RUNS_ON = ("cpu",)


@torch.inference_mode()
def spoil_and_restore(cache):
    saved = cache[:4].clone()
    cache[:4].zero_()
    time.sleep(0.02)
    cache[:4].copy_(saved)


_calls = 0


def run(inputs, state):
    global _calls
    _calls += 1
    outputs = _honest.decode(inputs, state)
    if _honest.is_timed(_calls):
        threading.Thread(target=spoil_and_restore, args=(inputs["kv_cache"],), daemon=True).start()
    return outputs


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
