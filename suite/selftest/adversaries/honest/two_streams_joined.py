"""Shares its sequences between two streams of its own and joins both by events."""

from __future__ import annotations

import torch

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "threads and streams"
RUNS_ON = ("cuda",)


_streams = []


def run(inputs, state):
    if not _streams:
        _streams.extend((torch.cuda.Stream(), torch.cuda.Stream()))
    current, outputs = torch.cuda.current_stream(), _honest.empty_outputs(inputs["q"])
    outputs["out"].zero_()
    outputs["lse"].fill_(float("-inf"))
    start = current.record_event()
    for stream in _streams:
        stream.wait_event(start)
    for b, (pages, n) in enumerate(zip(state.pages, state.lengths)):
        if n:
            with torch.cuda.stream(_streams[b % 2]):
                kv = _honest.gather(inputs["kv_cache"], pages, n)
                hidden = state.hidden[b] if state.problem.seq_len_q > 1 else None
                outputs["out"][b], outputs["lse"][b] = _honest.attend(
                    inputs["q"][b].float(), kv, state.problem.softmax_scale, hidden
                )
    for stream in _streams:
        current.wait_event(stream.record_event())
    return outputs


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
