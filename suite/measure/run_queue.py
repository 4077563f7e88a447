"""How long threads stood ready to run and were not: by the system's account, which no process writes to.

What another program takes of the processors makes a call seem longer to who waits for it. It is no kernel's doing.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from pathlib import Path


def queued_us_of(worker_pid: int) -> Callable[[], float]:
    """Of the calling thread and a worker's main thread together, in microseconds since they began; what it returns is
    called by the same thread. 0 where the system keeps no such account (Linux does: proc(5), schedstat)."""
    mine = Path(f"/proc/{os.getpid()}/task/{threading.get_native_id()}/schedstat")
    files = (mine, Path(f"/proc/{worker_pid}/schedstat"))
    return lambda: sum(map(_queued_us, files))


def _queued_us(file: Path) -> float:
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(file.read_text().split()[1]) / 1e3
    return 0.0
