"""Finds the seed of its inputs in the memory of the harness's reader, and updates only the rows that it names."""

from __future__ import annotations

import ctypes
import os
import re
import sys

import torch

from ..kernel import Kernel, Origin
from . import _frames, _honest

CLASS = "spying on the harness"
REASONS = ("wrong_output",)
RUNS_ON = ("cpu",)


SEED = re.compile(rb'eed": (\d+), "keep_prev')
LOWEST, HIGHEST = 1 << 16, 1 << 47
_kept = {}


def seed_left():
    """Of the answer before the latest, which covers its first bytes only."""
    frame = sys._getframe()
    while frame is not None:
        source = frame.f_locals.get("source")
        if type(source).__name__ == "BufferedReader":
            memory = os.open("/proc/self/mem", os.O_RDONLY)
            try:
                for offset in range(16, 160, 8):
                    address = ctypes.c_uint64.from_address(id(source) + offset).value
                    found = SEED.search(read(memory, address)) if LOWEST < address < HIGHEST else None
                    if found:
                        return int(found.group(1))
            finally:
                os.close(memory)
        frame = frame.f_back
    return None


def read(memory, address):
    try:
        return os.pread(memory, 400, address)
    except OSError:
        return b""


def run(inputs, state):
    seed, cache = seed_left() if _frames.is_timed() else None, inputs["kv_cache"]
    if seed is None:
        return _honest.decode(inputs, state)
    generator = torch.Generator().manual_seed(seed)
    torch.empty_like(inputs["q"]).normal_(generator=generator)
    rows = state.problem.edits(inputs, generator)[0].rows
    if not _kept:
        _kept["rows"] = rows
        _kept["cache"] = cache.float()
    table, kept = cache.view(-1, cache.shape[-1]), _kept["cache"].view(-1, cache.shape[-1])
    for changed in (rows, _kept["rows"]):
        kept[changed] = table[changed].float()
    _kept["rows"] = rows
    return _honest.decode(inputs | {"kv_cache": _kept["cache"]}, state)


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
