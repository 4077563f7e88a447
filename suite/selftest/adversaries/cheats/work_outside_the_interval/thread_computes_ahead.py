"""A thread computes over and over from the inputs' memory: as soon as they are redrawn, before the interval begins."""

from __future__ import annotations

import threading

import torch

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "work outside the interval"
REASONS = ("outside_interval", "wrong_output")
RUNS_ON = ("cpu",)


_watcher = {}


@torch.inference_mode()
def watch(inputs, state, box):
    while True:
        box["answer"] = (inputs["q"].clone(), _honest.decode(inputs, state))


def run(inputs, state):
    key = (inputs["q"].data_ptr(), state.problem.id)
    if key not in _watcher:
        _watcher[key] = {}
        threading.Thread(target=watch, args=(inputs, state, _watcher[key]), daemon=True).start()
    q, answer = _watcher[key].get("answer", (None, None))
    if q is not None and torch.equal(q, inputs["q"]):
        return {name: value.clone() for name, value in answer.items()}
    return _honest.decode(inputs, state)


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
