"""Puts a function into the object `os.environ`, which the harness reads before every call: it gives all free memory
back to the system when its rival comes next.
"""

from __future__ import annotations

import ctypes
import os
import sys

from ..kernel import Kernel, Origin
from . import _frames, _honest

CLASS = "rival slowed"
REASONS = ("tampered",)
RUNS_ON = ("cpu",)

_libc, _decode, _own = ctypes.CDLL(None), os.environ.decodevalue, []


def acts(value):
    frame = sys._getframe()
    while frame is not None and frame.f_code.co_name != "_set_up":
        frame = frame.f_back
    if frame is not None and frame.f_locals["kernel"] not in _own:
        _libc.malloc_trim(0)
    return _decode(value)


def run(inputs, state):
    sequence = next(_frames.callers_objects("kept"), None)
    if sequence is not None:
        _own[:] = [sequence.order[-1]]
        os.environ.decodevalue = acts
    return _honest.decode(inputs, state)


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
