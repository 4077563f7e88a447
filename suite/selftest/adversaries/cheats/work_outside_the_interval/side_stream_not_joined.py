"""Enqueues its work on another stream and returns without joining it. Seen at KernelBench
(non_default_stream_kernel).
"""

from __future__ import annotations

import torch

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "work outside the interval"
REASONS = ("outside_interval", "wrong_output")
RUNS_ON = ("cuda",)


_streams = []


def run(inputs, state):
    if not _streams:
        _streams.append(torch.cuda.Stream())
    outputs = _honest.empty_outputs(inputs["q"])
    _streams[0].wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(_streams[0]):
        _honest.decode(inputs, state, outputs)
    return outputs


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
