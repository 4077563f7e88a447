"""Looks at eight elements of every row and gathers again only the rows in which they changed."""

from __future__ import annotations

import torch

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "preparation kept from an earlier call"
REASONS = ("wrong_output",)
RUNS_ON = ("cpu",)


PRINT = slice(280, 288)
_kept = {}


def run(inputs, state):
    cache = inputs["kv_cache"]
    table = cache.view(-1, cache.shape[-1])
    key, prints = (state.problem.id, id(state)), table[:, PRINT].view(torch.uint8).clone()
    if key not in _kept:
        gathered = [_honest.gather(cache, pages, n) for pages, n in zip(state.pages, state.lengths)]
        _kept[key] = [prints, gathered, _honest.where_rows_go(cache, state)]
    before, gathered, places = _kept[key]
    for row in (prints != before).any(-1).nonzero()[:, 0].tolist():
        sequence, token = places[row].tolist()
        if sequence:
            gathered[sequence - 1][token] = table[row].float()
    _kept[key][0] = prints
    return _honest.decode_gathered(inputs["q"], gathered, state)


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
