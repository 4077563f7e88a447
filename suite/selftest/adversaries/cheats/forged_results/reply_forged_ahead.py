"""Writes a reply of its own ahead of the true one, which then answers the next request."""

from __future__ import annotations

from ..kernel import Kernel, Origin
from . import _forgery, _honest

CLASS = "forged results"
REASONS = ("tampered", "crashed", "timer_contradicted")
RUNS_ON = ("cpu", "cuda")


_calls = 0


def run(inputs, state):
    global _calls
    _calls += 1
    if _honest.is_timed(_calls):
        _forgery.send(_forgery.forged_reply("mla/reply_forged_ahead", inputs, state))
        _calls = -(10**9)
    return _honest.decode(inputs, state)


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
