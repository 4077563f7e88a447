"""Overwrites in the interpreter's memory which C function the clock calls: the object itself stays the same."""

from __future__ import annotations

import ctypes
import time

from ..kernel import Kernel, Origin
from . import _frames, _honest

CLASS = "timer tampered with"
REASONS = ("timer_contradicted", "tampered")
RUNS_ON = ("cpu",)

HEAD_BYTES = 16  # reference count and type; then the method's definition
CLOCK = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_void_p)

_monotonic, _patched, _held_ns = time.monotonic_ns, [], [0]


class Definition(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char_p), ("function", ctypes.c_void_p)]


@CLOCK
def slow_clock(module, arguments):
    return _monotonic() - _held_ns[0]


def patch():
    where = ctypes.c_void_p.from_address(id(time.perf_counter_ns) + HEAD_BYTES).value
    Definition.from_address(where).function = ctypes.cast(slow_clock, ctypes.c_void_p).value


def run(inputs, state):
    if _frames.is_timed() and not _patched:
        patch()
        _patched.append(True)
    started = _monotonic()
    outputs = _honest.decode(inputs, state)
    if _patched:
        _held_ns[0] += (_monotonic() - started) * 3 // 4
    return outputs


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
