"""Writes the reply of a worker that has measured well into the pipe to the parent, and exits with status 0. After
kernelbot's examples.
"""

from __future__ import annotations

import os

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
        _forgery.send(_forgery.forged_reply("mla/reply_forged_then_exit", inputs, state))
        os._exit(0)
    return _honest.decode(inputs, state)


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
