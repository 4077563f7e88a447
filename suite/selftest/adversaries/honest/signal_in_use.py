"""Sets a handler and a timer against hanging, and puts both back before it returns."""

from __future__ import annotations

import contextlib
import signal

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "ways to write Python"
RUNS_ON = ("cpu", "cuda")


@contextlib.contextmanager
def at_most(seconds):
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def run(inputs, state):
    with at_most(60.0):
        return _honest.decode(inputs, state)


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
