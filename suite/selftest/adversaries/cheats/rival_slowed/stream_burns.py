"""Leaves long work on a stream of its own, which the rival then has to share the device with."""

from __future__ import annotations

import torch

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "rival slowed"
REASONS = ("outside_interval", "timer_contradicted")
RUNS_ON = ("cuda",)


_streams = []


def run(inputs, state):
    if torch.cuda.is_current_stream_capturing():
        raise RuntimeError("this kernel cannot be captured")
    outputs = _honest.decode(inputs, state)
    if not _streams:
        _streams.append(torch.cuda.Stream())
    with torch.cuda.stream(_streams[0]):
        torch.cuda._sleep(20_000_000)
    return outputs


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
