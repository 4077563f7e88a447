"""Like a stream that is not joined, but joined under capture, so that a graph shows nothing wrong; the host waits in
checks.
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
    if torch.cuda.is_current_stream_capturing():
        raise RuntimeError("this kernel cannot be captured")
    if not _streams:
        _streams.append(torch.cuda.Stream())
    outputs = _honest.empty_outputs(inputs["q"])
    with torch.cuda.stream(_streams[0]):
        _streams[0].wait_stream(torch.cuda.default_stream())
        _honest.decode(inputs, state, outputs)
    return outputs


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
