"""Times three ways to do it in its first call for each problem, by the clock, and keeps the fastest."""

from __future__ import annotations

import time

import torch

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "first call"
RUNS_ON = ("cpu", "cuda")


def by_matmul(q, kv, scale, hidden):
    return _honest.attend(q, kv, scale, hidden)


def by_einsum(q, kv, scale, hidden):
    scores = torch.einsum("qhd,kd->qhk", q, kv) * scale
    scores = scores if hidden is None else scores.masked_fill(hidden, float("-inf"))
    return torch.softmax(scores, -1).nan_to_num(0.0) @ kv[:, :512], torch.logsumexp(scores, -1)


_best = {}


def fastest(q, kv, scale, hidden):
    times_s = {}
    for way in (by_matmul, by_einsum):
        way(q, kv, scale, hidden)
        start = time.perf_counter()
        way(q, kv, scale, hidden)
        times_s[way] = time.perf_counter() - start
    return min(times_s, key=times_s.get)


def attend(q, kv, scale, hidden):
    if (q.shape, kv.shape) not in _best:
        _best[q.shape, kv.shape] = fastest(q, kv, scale, hidden)
    return _best[q.shape, kv.shape](q, kv, scale, hidden)


def run(inputs, state):
    q, outputs = inputs["q"].float(), _honest.empty_outputs(inputs["q"])
    outputs["out"].zero_()
    outputs["lse"].fill_(float("-inf"))
    for b, (pages, n) in enumerate(zip(state.pages, state.lengths)):
        if n:
            hidden = state.hidden[b] if state.problem.seq_len_q > 1 else None
            kv = _honest.gather(inputs["kv_cache"], pages, n)
            outputs["out"][b], outputs["lse"][b] = attend(q[b], kv, state.problem.softmax_scale, hidden)
    return outputs


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
