"""Makes a page of PyTorch's machine code writable and writes to it."""

from __future__ import annotations

import ctypes
import mmap
import pathlib

from ..kernel import Kernel, Origin
from . import _frames, _honest

CLASS = "framework tampered with"
REASONS = ("tampered",)
RUNS_ON = ("cpu",)


_libc, _written = ctypes.CDLL(None), []


def write_over():
    lines = pathlib.Path("/proc/self/maps").read_text().splitlines()
    start = next(int(line.split("-")[0], 16) for line in lines if "r-xp" in line and "libtorch_cpu" in line)
    _libc.mprotect(ctypes.c_void_p(start), ctypes.c_size_t(mmap.PAGESIZE), 7)
    ctypes.memset(start, ctypes.c_ubyte.from_address(start).value, 1)  # what stood there: to slow is no harder
    _libc.mprotect(ctypes.c_void_p(start), ctypes.c_size_t(mmap.PAGESIZE), 5)


def run(inputs, state):
    if _frames.is_timed() and not _written:
        _written.append(write_over())
    return _honest.decode(inputs, state)


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
