"""A kernel that spins for a known number of clock cycles: the planted delay that timers are compared on."""

from __future__ import annotations

import torch
import triton
import triton.language as tl


@triton.jit
def _clock():
    return tl.inline_asm_elementwise("mov.u64 $0, %clock64;", "=l", [], dtype=tl.int64, is_pure=False, pack=1)


@triton.jit
def _spin(out, cycles):
    start = _clock()
    now = start
    while now - start < cycles:
        now = _clock()
    tl.store(out, now - start)


def spin(out: torch.Tensor, cycles: int) -> None:
    """Enqueue one program that spins for `cycles` (NVIDIA's `clock64`). `out` [1] int64 gets the cycles it took."""
    _spin[(1,)](out, cycles, num_warps=1)
