"""Prints to standard output and error, logs, and warns."""

from __future__ import annotations

import logging
import sys
import warnings

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "ways to write Python"
RUNS_ON = ("cpu", "cuda")


def run(inputs, state):
    print("[tuner] chose configuration 3 of 12", flush=True)
    print('{"status": "ran", "outputs": {}}', file=sys.stderr)
    logging.getLogger(__name__).warning("no tuned configuration for this shape")
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        warnings.warn("this kernel is slow on your machine", stacklevel=2)
    return _honest.decode(inputs, state)


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
