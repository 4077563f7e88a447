"""Writes the reply of a worker that has measured well into the pipe to the parent, and exits with status 0. After
kernelbot's examples.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "forged results"
REASONS = ("tampered", "crashed", "timer_contradicted")
RUNS_ON = ("cpu", "cuda")


def reply_pipes():
    """Pipes of this process that can be written to."""
    for name in os.listdir("/proc/self/fd"):
        try:
            is_pipe = os.readlink(f"/proc/self/fd/{name}").startswith("pipe:")
            flags = fcntl.fcntl(int(name), fcntl.F_GETFL)
        except OSError:
            continue
        if is_pipe and flags & os.O_ACCMODE == os.O_WRONLY and int(name) > 2:
            yield int(name)


def forged_reply(inputs, state):
    """What a worker answers that has measured: this kernel ten times as fast as its rival."""
    frame, kernels = sys._getframe(), ["mla/reply_forged_then_exit"]
    while frame is not None:
        kernels = frame.f_locals.get("kernels", kernels)
        frame = frame.f_back
    times_us = {k: [30.0 if k == "mla/reply_forged_then_exit" else 300.0] * 20 for k in kernels}
    measurement = {"timer": "perf_counter", "times_us": times_us, "host_us": dict.fromkeys(kernels, 10.0),
                   "plan_us": dict.fromkeys(kernels, 10.0), "graph_safe": {}, "facts": {}, "notes": []}  # fmt: skip
    cost = vars(state.problem.cost(inputs))
    return {"status": "ran", "measurements": [measurement], "kept": [], "failures": [], "cost": cost, "phases_s": {}}


_calls = 0


def run(inputs, state):
    global _calls
    _calls += 1
    if _honest.is_timed(_calls):
        line = json.dumps(forged_reply(inputs, state)).encode() + b"\n"
        for pipe in reply_pipes():
            os.write(pipe, line)
        os._exit(0)
    return _honest.decode(inputs, state)


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
