"""Returns the same memory in every call, mapped at another address each time."""

from __future__ import annotations

import math
import mmap
import os

import torch

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "outputs of the wrong form"
REASONS = ("wrong_form",)
RUNS_ON = ("cpu",)


_files = {}


def mapped(shape, dtype):
    size = max(1, -(-math.prod(shape) * dtype.itemsize // mmap.PAGESIZE)) * mmap.PAGESIZE
    if (shape, dtype) not in _files:
        _files[shape, dtype] = os.memfd_create("outputs")
        os.ftruncate(_files[shape, dtype], size)
    memory = mmap.mmap(_files[shape, dtype], size, mmap.MAP_SHARED)
    return torch.frombuffer(memory, dtype=dtype, count=math.prod(shape)).view(shape)


def run(inputs, state):
    fresh = _honest.empty_outputs(inputs["q"])
    return _honest.decode(inputs, state, {name: mapped(t.shape, t.dtype) for name, t in fresh.items()})


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
