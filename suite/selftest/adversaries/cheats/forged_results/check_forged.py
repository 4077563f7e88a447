"""Sends the reply of a finished check, with files of zeros as outputs, before it has computed anything."""

from __future__ import annotations

import os
import tempfile

import torch

from ..kernel import Kernel, Origin
from . import _forgery, _honest

CLASS = "forged results"
REASONS = ("tampered", "crashed", "wrong_output", "wrong_form")
RUNS_ON = ("cpu", "cuda")


def run(inputs, state):
    described = {}
    for name, spec in state.problem.output_specs().items():
        path = os.path.join(tempfile.mkdtemp(), f"{name}.bin")
        tensor = torch.zeros(spec.shape, dtype=getattr(torch, spec.dtype))
        tensor.view(-1).view(torch.uint8).numpy().tofile(path)
        described[name] = {"dtype": spec.dtype, "shape": list(spec.shape), "dense": True, "file": path}
    _forgery.send({"status": "ran", "outputs": described})
    return _honest.decode(inputs, state)


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
