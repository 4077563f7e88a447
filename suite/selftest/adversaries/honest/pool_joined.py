"""Spreads its sequences over a thread pool, waits for all of them, and leaves the pool idle."""

from __future__ import annotations

import functools
from concurrent.futures import ThreadPoolExecutor

import torch

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "threads and streams"
RUNS_ON = ("cpu",)


@functools.cache
def pool():
    return ThreadPoolExecutor(4)


def one(inputs, state, outputs, b):
    with torch.inference_mode():
        kv = _honest.gather(inputs["kv_cache"], state.pages[b], state.lengths[b])
        hidden = state.hidden[b] if state.problem.seq_len_q > 1 else None
        out, lse = _honest.attend(inputs["q"][b].float(), kv, state.problem.softmax_scale, hidden)
        outputs["out"][b], outputs["lse"][b] = out, lse


def run(inputs, state):
    outputs = _honest.empty_outputs(inputs["q"])
    outputs["out"].zero_()
    outputs["lse"].fill_(float("-inf"))
    waiting = [pool().submit(one, inputs, state, outputs, b) for b, n in enumerate(state.lengths) if n]
    for future in waiting:
        future.result()
    return outputs


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
