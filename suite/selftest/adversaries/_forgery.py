"""What several cheats use to write into the pipe to the parent."""

from __future__ import annotations

import fcntl
import json
import os
import sys


def send(reply) -> None:
    """Write a reply, as JSON, into every pipe that may lead to the parent."""
    line = json.dumps(reply).encode() + b"\n"
    for pipe in reply_pipes():
        os.write(pipe, line)


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


def forged_reply(own, inputs, state):
    """What a worker answers that has measured: kernel `own` ten times as fast as its rival."""
    frame, kernels = sys._getframe(), [own]
    while frame is not None:
        kernels = frame.f_locals.get("kernels", kernels)
        frame = frame.f_back
    times_us = {k: [30.0 if k == own else 300.0] * 20 for k in kernels}
    measurement = {"timer": "perf_counter", "times_us": times_us, "host_us": dict.fromkeys(kernels, 10.0),
                   "plan_us": dict.fromkeys(kernels, 10.0), "graph_safe": {}, "facts": {}, "notes": []}  # fmt: skip
    cost = vars(state.problem.cost(inputs))
    return {"status": "ran", "measurements": [measurement], "kept": [], "failures": [], "cost": cost, "phases_s": {}}
