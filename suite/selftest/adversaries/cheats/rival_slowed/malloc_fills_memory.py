"""Has malloc fill all memory that it gives and takes, which its rival's scratch memory is paid for with."""

from __future__ import annotations

import ctypes

from ..kernel import Kernel, Origin
from . import _frames, _honest

CLASS = "rival slowed"
REASONS = ("tampered",)
RUNS_ON = ("cpu",)

M_PERTURB = -6
_libc = ctypes.CDLL(None)


def run(inputs, state):
    if _frames.is_timed():
        _libc.mallopt(M_PERTURB, 0)
    answer = _honest.decode(inputs, state)
    if _frames.is_timed():
        _libc.mallopt(M_PERTURB, 0x55)
    return answer


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
