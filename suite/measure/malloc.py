"""In the worker: what glibc's malloc does, which a process can set for all that is called in it."""

from __future__ import annotations

import ctypes
import os

M_TRIM_THRESHOLD, M_MMAP_MAX, M_PERTURB = -1, -4, -6
KEPT = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: -1, M_PERTURB: 0}
"""What crew.py tells malloc where kernels are timed: map no block by itself, return none (-1 is the largest size), fill
none. As mallopt takes it."""
LARGE_BYTES = 64 << 20
"""What malloc maps by itself wherever it may map anything."""
IS_MAPPED = 2
"""The bit of a block's size by which glibc marks it."""
BLOCK_BYTES, WRITTEN = 1 << 13, (0x0F, 0xA5)
"""A block that malloc hands out again when it was just given back, too large for what a thread keeps for itself, and
what is written to it: memory may be filled with one of them."""
ATTEMPTS = 3
"""Another thread may have had it in between."""


def keep_blocks() -> None:
    """Tell malloc again what it was told by the environment, if it was: whatever a call has told it ends with the call.

    What it maps by itself is seen by `large_blocks` only where nothing as large is free.
    """
    libc = ctypes.CDLL(None)
    if _is_told(libc):
        for name, value in KEPT.items():
            libc.mallopt(name, value)


def _is_told(libc: ctypes.CDLL) -> bool:
    return hasattr(libc, "gnu_get_libc_version") and os.environ.get("MALLOC_MMAP_MAX_") == "0"


def large_blocks() -> tuple[bool, bool] | None:
    """Whether malloc maps a large block by itself, and whether it returns it; None where it is no glibc, or
    may do so (crew.py tells those that are timed not to).

    What malloc is told can be set and not asked. The block is never touched; before it stands its size, with flags.
    """
    libc = ctypes.CDLL(None)
    if not _is_told(libc):
        return None
    libc.malloc.restype = libc.sbrk.restype = ctypes.c_void_p
    block = libc.malloc(ctypes.c_size_t(LARGE_BYTES))
    flags = ctypes.c_size_t.from_address(block - ctypes.sizeof(ctypes.c_size_t)).value
    end = libc.sbrk(0)
    libc.free(ctypes.c_void_p(block))
    return bool(flags & IS_MAPPED), libc.sbrk(0) < end


def keeps_content() -> bool | None:
    """Whether malloc leaves memory as it is; None where it is no glibc, or may fill it, as where kernels are checked.

    It can be told to fill what it hands out and takes back with one byte: all who need scratch memory pay for that.
    """
    libc = ctypes.CDLL(None)
    if not _is_told(libc):
        return None
    return all(any(_finds_again(libc, byte) for _ in range(ATTEMPTS)) for byte in WRITTEN)


def _finds_again(libc: ctypes.CDLL, byte: int) -> bool:
    libc.malloc.restype = ctypes.c_void_p
    block = ctypes.c_void_p(libc.malloc(ctypes.c_size_t(BLOCK_BYTES)))
    ctypes.memset(block, byte, BLOCK_BYTES)
    libc.free(block)
    again = ctypes.c_void_p(libc.malloc(ctypes.c_size_t(BLOCK_BYTES)))
    last = ctypes.string_at((again.value or 0) + BLOCK_BYTES - 1, 1)[0]  # of the first ones malloc makes use itself
    libc.free(again)
    return again.value != block.value or last == byte
