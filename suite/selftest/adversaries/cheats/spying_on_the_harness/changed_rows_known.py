"""Keeps the gathered cache, and reads in its callers' frames which rows the harness has replaced for this call."""

from __future__ import annotations

import torch

from ..kernel import Kernel, Origin
from . import _frames, _honest

CLASS = "spying on the harness"
REASONS = ("wrong_output", "tampered")
RUNS_ON = ("cpu",)


_kept = {}


def replaced_rows(inputs):
    for sequence in _frames.callers_objects("kept"):
        return torch.cat([torch.empty(0, dtype=torch.int64), *(edit.rows for edit in sequence.drawn._undo)])
    return None


def run(inputs, state):
    rows = replaced_rows(inputs)
    if rows is None:
        return _honest.decode(inputs, state)
    cache = inputs["kv_cache"]
    if state not in _kept:
        size = cache.shape[1]
        places = torch.full((cache.shape[0] * size,), -1)
        start, gathered = 0, []
        for pages, n in zip(state.pages, state.lengths):
            slots = (pages[:, None] * size + torch.arange(size)).flatten()[:n]
            places[slots] = torch.arange(start, start + n)
            start += n
            gathered.append(_honest.gather(cache, pages, n))
        _kept.clear()
        _kept[state] = (torch.cat(gathered), places, [])
    whole, places, stale = _kept[state]
    fresh = torch.cat([*stale, rows])
    used = places[fresh] >= 0
    whole[places[fresh][used]] = cache.view(-1, cache.shape[-1])[fresh][used].float()
    stale[:] = [rows]
    return _honest.decode_gathered(inputs["q"], whole.split(list(state.lengths)), state)


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
