"""Starts a thread for each call and joins it."""

from __future__ import annotations

import threading

import torch

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "threads and streams"
RUNS_ON = ("cpu",)


def run(inputs, state):
    outputs = _honest.empty_outputs(inputs["q"])
    thread = threading.Thread(target=torch.inference_mode()(_honest.decode), args=(inputs, state, outputs))
    thread.start()
    thread.join()
    return outputs


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
