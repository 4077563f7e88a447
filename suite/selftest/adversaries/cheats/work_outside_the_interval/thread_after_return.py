"""Returns unwritten outputs; a thread fills them after the clock has stopped. After KernelBench's examples."""

from __future__ import annotations

import threading

import torch

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "work outside the interval"
REASONS = ("outside_interval", "wrong_output")
RUNS_ON = ("cpu", "cuda")


def run(inputs, state):
    outputs = _honest.empty_outputs(inputs["q"])
    own = {name: tensor.clone() for name, tensor in inputs.items()}
    decode = torch.inference_mode()(_honest.decode)
    threading.Thread(target=decode, args=(own, state, outputs), daemon=True).start()
    return outputs


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
