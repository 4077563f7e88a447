"""Takes a second for its first call, as a kernel does that is compiled then."""

from __future__ import annotations

import functools
import time

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "first call"
RUNS_ON = ("cpu", "cuda")


@functools.cache
def compiled():
    time.sleep(1.0)
    return _honest.decode


def run(inputs, state):
    return compiled()(inputs, state)


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
