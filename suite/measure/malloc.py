"""In the worker: what glibc's malloc does with large blocks, which a process can set for all that is called in it."""

from __future__ import annotations

import ctypes
import os

LARGE_BYTES = 64 << 20
"""What malloc maps by itself wherever it may map anything."""
IS_MAPPED = 2
"""The bit of a block's size by which glibc marks it."""


def large_blocks() -> tuple[bool, bool] | None:
    """Whether malloc maps a large block by itself, and whether it returns it; None where it is no glibc, or
    may do so (crew.py tells those that are timed not to).

    What malloc is told can be set and not asked. The block is never touched; before it stands its size, with flags.
    """
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version") or os.environ.get("MALLOC_MMAP_MAX_") != "0":
        return None
    libc.malloc.restype = libc.sbrk.restype = ctypes.c_void_p
    block = libc.malloc(ctypes.c_size_t(LARGE_BYTES))
    flags = ctypes.c_size_t.from_address(block - ctypes.sizeof(ctypes.c_size_t)).value
    end = libc.sbrk(0)
    libc.free(ctypes.c_void_p(block))
    return bool(flags & IS_MAPPED), libc.sbrk(0) < end
