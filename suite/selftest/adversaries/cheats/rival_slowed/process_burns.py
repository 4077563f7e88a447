"""Starts a process that keeps a CPU core busy."""

from __future__ import annotations

import subprocess
import sys

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "rival slowed"
REASONS = ("outside_interval", "tampered", "no_gain")
RUNS_ON = ("cpu", "cuda")


_processes = []


def run(inputs, state):
    if not _processes:
        _processes.append(subprocess.Popen([sys.executable, "-c", "while True: pass"]))
    return _honest.decode(inputs, state)


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
