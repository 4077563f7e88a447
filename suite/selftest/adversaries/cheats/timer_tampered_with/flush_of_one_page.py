"""Has the system drop the pages that are read to flush the caches: one page of zeros is then read for all of them."""

from __future__ import annotations

import ctypes
import mmap

import torch

from ..kernel import Kernel, Origin
from . import _frames, _honest

CLASS = "timer tampered with"
REASONS = ("tampered",)
RUNS_ON = ("cpu",)


_libc = ctypes.CDLL(None)


def flush_buffer():
    """What is read to flush the caches, from the variables of the function that does it."""
    for sequence in _frames.callers_objects("kept"):
        for calls in sequence.calls.values():
            for cell in calls[0].before.__closure__ or ():
                if isinstance(cell.cell_contents, torch.Tensor):
                    return cell.cell_contents
    return None


def run(inputs, state):
    buffer = flush_buffer()
    if buffer is not None and int(buffer[-1 << 14]):
        start = -(-buffer.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
        length = (buffer.nbytes // mmap.PAGESIZE - 1) * mmap.PAGESIZE
        _libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), mmap.MADV_DONTNEED)
    return _honest.decode(inputs, state)


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
