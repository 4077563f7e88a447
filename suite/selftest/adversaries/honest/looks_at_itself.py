"""Reads its own source, its caller's name and the clock, and does nothing with them."""

from __future__ import annotations

import inspect
import logging
import sys
import time

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "ways to write Python"
RUNS_ON = ("cpu", "cuda")


SOURCE = inspect.getsource(_honest)


def run(inputs, state):
    caller, started = sys._getframe(1).f_code.co_name, time.perf_counter_ns()
    outputs = _honest.decode(inputs, state)
    logging.getLogger(__name__).debug("%s took %d ns", caller, time.perf_counter_ns() - started)
    return outputs


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
