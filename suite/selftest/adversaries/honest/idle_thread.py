"""Keeps a thread that sleeps, as libraries keep for their logs."""

from __future__ import annotations

import functools
import threading

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "threads and streams"
RUNS_ON = ("cpu", "cuda")


@functools.cache
def sleeper():
    thread = threading.Thread(target=threading.Event().wait, daemon=True)
    thread.start()
    return thread


def run(inputs, state):
    sleeper()
    return _honest.decode(inputs, state)


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
