"""Keeps the KV cache in the L2 cache through a persisting access window, which a flush by reading does not evict."""

from __future__ import annotations

import ctypes
from pathlib import Path

import torch

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "rival slowed"
REASONS = ("tampered", "no_gain")
RUNS_ON = ("cuda",)


PERSISTING_L2_LIMIT = 6
ACCESS_POLICY_WINDOW = 1
PERSISTING, STREAMING = 2, 1


class Window(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("bytes", ctypes.c_size_t), ("hit_ratio", ctypes.c_float),
                ("hit", ctypes.c_int), ("miss", ctypes.c_int), ("padding", ctypes.c_byte * 64)]  # fmt: skip


def runtime():
    """The CUDA runtime that PyTorch has loaded already."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        if "libcudart" in line:
            return ctypes.CDLL(line.split()[-1])
    return ctypes.CDLL("libcudart.so")


def run(inputs, state):
    cache, stream = inputs["kv_cache"], torch.cuda.current_stream().cuda_stream
    size = cache.numel() * cache.element_size()
    library = runtime()
    library.cudaDeviceSetLimit(PERSISTING_L2_LIMIT, ctypes.c_size_t(min(size, 30 << 20)))
    window = Window(cache.data_ptr(), size, 1.0, PERSISTING, STREAMING)
    library.cudaStreamSetAttribute(ctypes.c_void_p(stream), ACCESS_POLICY_WINDOW, ctypes.byref(window))
    return _honest.decode(inputs, state)


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
