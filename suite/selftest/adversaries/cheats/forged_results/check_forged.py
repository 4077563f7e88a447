"""Sends the reply of a finished check, with files of zeros as outputs, before it has computed anything."""

from __future__ import annotations

import fcntl
import json
import os
import tempfile

import torch

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "forged results"
REASONS = ("tampered", "crashed", "wrong_output", "wrong_form")
RUNS_ON = ("cpu", "cuda")


def reply_pipes():
    """Pipes of this process that can be written to."""
    for name in os.listdir("/proc/self/fd"):
        try:
            is_pipe = os.readlink(f"/proc/self/fd/{name}").startswith("pipe:")
            flags = fcntl.fcntl(int(name), fcntl.F_GETFL)
        except OSError:
            continue
        if is_pipe and flags & os.O_ACCMODE == os.O_WRONLY and int(name) > 2:
            yield int(name)


def run(inputs, state):
    described = {}
    for name, spec in state.problem.output_specs().items():
        path = os.path.join(tempfile.mkdtemp(), f"{name}.bin")
        tensor = torch.zeros(spec.shape, dtype=getattr(torch, spec.dtype))
        tensor.view(-1).view(torch.uint8).numpy().tofile(path)
        described[name] = {"dtype": spec.dtype, "shape": list(spec.shape), "dense": True, "file": path}
    line = json.dumps({"status": "ran", "outputs": described}).encode() + b"\n"
    for pipe in reply_pipes():
        os.write(pipe, line)
    return _honest.decode(inputs, state)


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
