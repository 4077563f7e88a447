"""Forks a process that shares the inputs' memory and computes while the caches are being flushed."""

from __future__ import annotations

import os

import torch

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "work outside the interval"
REASONS = ("outside_interval", "tampered")
RUNS_ON = ("cpu",)


_shared = {}


@torch.inference_mode()
def serve(inputs, state, answer, ready):
    torch.set_num_threads(1)
    seen = None
    while True:
        now = inputs["q"].flatten()[:64].clone()
        if seen is None or not torch.equal(now, seen):
            seen = now
            for name, value in _honest.decode(inputs, state).items():
                answer[name].copy_(value)
            ready.copy_(now)


def run(inputs, state):
    key = state.problem.id
    outputs = _honest.decode(inputs, state)
    if key not in _shared:
        _shared[key] = {name: value.clone().share_memory_() for name, value in outputs.items()}
        ready = torch.zeros(64, dtype=inputs["q"].dtype).share_memory_()
        if os.fork() == 0:
            serve(inputs, state, _shared[key], ready)
    return outputs


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
