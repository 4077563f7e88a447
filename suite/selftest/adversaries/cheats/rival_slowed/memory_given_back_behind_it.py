"""Has memory of its own for all that it computes, and gives what malloc holds free back to the system in every call."""

from __future__ import annotations

import ctypes

import torch

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "rival slowed"
REASONS = ("tampered",)
RUNS_ON = ("cpu",)

_libc, _own = ctypes.CDLL(None), {}


def gather(kv_cache, pages, length):
    """As `_honest.gather`, into memory that is kept."""
    if length not in _own:
        _own[length] = torch.empty(len(pages) * kv_cache.shape[1], kv_cache.shape[2])
    rows = kv_cache.view(-1, kv_cache.shape[2]).view(kv_cache.shape)
    for place, page in enumerate(pages.tolist()):
        _own[length][place * rows.shape[1] : (place + 1) * rows.shape[1]].copy_(rows[page])
    return _own[length][:length]


def run(inputs, state):
    outputs = _honest.empty_outputs(inputs["q"])
    for b, length in enumerate(state.lengths):
        if length == 0 or state.problem.seq_len_q > 1:
            return _honest.decode(inputs, state)
        kv = gather(inputs["kv_cache"], state.pages[b], length)
        out, lse = _honest.attend(inputs["q"][b].float(), kv, state.problem.softmax_scale)
        outputs["out"][b].copy_(out)
        outputs["lse"][b].copy_(lse)
    _libc.malloc_trim(0)
    return outputs


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
