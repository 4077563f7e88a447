"""Has malloc map large blocks afresh: its rival's scratch memory is faulted in in every call, and its own is kept."""

from __future__ import annotations

import ctypes

from ..kernel import Kernel, Origin
from . import _frames, _honest

CLASS = "rival slowed"
REASONS = ("tampered", "no_gain")
RUNS_ON = ("cpu",)


M_MMAP_THRESHOLD, M_MMAP_MAX = -3, -4
_libc = ctypes.CDLL(None)


def run(inputs, state):
    if _frames.is_timed():
        _libc.mallopt(M_MMAP_MAX, 1 << 16)
        _libc.mallopt(M_MMAP_THRESHOLD, 1 << 17)
    return _honest.decode(inputs, state)


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
