"""Bytes that cross between processes in files, with a digest that cannot be forged: by all cores, chunk by chunk.

Outputs are up to 512 MB, and of every launch a few dozen are handed over: one core would take longer than the kernels.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

CHUNK_BYTES = 8 << 20
MAX_THREADS = 8


def digest(data: Any) -> str:
    """Hexadecimal SHA-256 over the SHA-256 of every chunk of `data`, a contiguous buffer of bytes."""
    return _over_chunks(memoryview(data).cast("B"), lambda chunk, start: None)


def write_digested(path: Path, data: Any) -> str:
    """Write the bytes of `data` to a file; its digest."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)

    def write(chunk: memoryview, start: int) -> None:
        while chunk:
            written = os.pwrite(descriptor, chunk, start)
            chunk, start = chunk[written:], start + written

    try:
        return _over_chunks(memoryview(data).cast("B"), write)
    finally:
        os.close(descriptor)


def read_digested(path: str, into: Any) -> str | None:
    """Fill `into`, a writable buffer, from a file that holds as many bytes; the digest of what was read.

    None where there is no such file. Another process may have put anything in its place, and may go on writing to it:
    what counts is what has been read, and each byte is read once.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    buffer = memoryview(into).cast("B")

    def read(chunk: memoryview, start: int) -> None:
        while chunk:
            count = os.preadv(descriptor, [chunk], start)
            if not count:
                raise EOFError
            chunk, start = chunk[count:], start + count

    try:
        found = os.fstat(descriptor)
        is_it = stat.S_ISREG(found.st_mode) and found.st_size == len(buffer)
        return _over_chunks(buffer, read) if is_it else None
    except EOFError:
        return None
    finally:
        os.close(descriptor)


def _over_chunks(view: memoryview, first: Callable[[memoryview, int], None]) -> str:
    """`first` is done with each chunk and where it begins, then its SHA-256 is taken."""

    def one(start: int) -> bytes:
        chunk = view[start : start + CHUNK_BYTES]
        first(chunk, start)
        return hashlib.sha256(chunk).digest()

    starts = range(0, max(1, len(view)), CHUNK_BYTES)
    if len(starts) == 1:
        return hashlib.sha256(one(0)).hexdigest()
    with ThreadPoolExecutor(min(MAX_THREADS, os.cpu_count() or 1)) as pool:  # all of it lets go of the GIL
        return hashlib.sha256(b"".join(pool.map(one, starts))).hexdigest()
