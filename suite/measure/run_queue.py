"""How long threads stood ready to run and were not: by the system's account, which no process writes to.

What another program takes of the processors makes a call seem longer to who waits for it. It is no kernel's doing; but
what the worker's own threads and processes take is, or a kernel could let its main thread stand in line behind them.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from pathlib import Path

NOTICED_US = 100.0
"""A shorter wait in line is granted without looking for the worker's children."""

Mark = tuple[float, float]
"""Microseconds that the calling thread and the worker's main one stood in line, and that its others computed."""


class RunQueue:
    """The calling thread and a worker's main thread. Nothing is ever lost where the system keeps no account of it
    (Linux does: proc(5), schedstat)."""

    def __init__(self, worker_pid: int) -> None:
        self._pid = worker_pid
        self._threads = (
            Path(f"/proc/{os.getpid()}/task/{threading.get_native_id()}/schedstat"),
            Path(f"/proc/{worker_pid}/schedstat"),
        )

    def mark(self) -> Mark:
        """To hand to `lost_us` later, in the same thread."""
        (_, own_queued_us), (main_us, queued_us) = map(_computed_and_queued_us, self._threads)
        return own_queued_us + queued_us, _process_us(self._pid) - main_us

    def lost_us(self, since: Mark) -> float:
        """Microseconds since then in which other programs ran and these two threads would have."""
        queued_us, others_us = (now - then for now, then in zip(self.mark(), since, strict=True))
        lost_us = max(0.0, queued_us - max(0.0, others_us))
        return 0.0 if lost_us > NOTICED_US and self._has_children() else lost_us

    def _has_children(self) -> bool:
        tasks = Path(f"/proc/{self._pid}/task")
        with contextlib.suppress(OSError):
            return any((task / "children").read_text() for task in tasks.iterdir())
        return True


def _computed_and_queued_us(schedstat: Path) -> tuple[float, float]:
    with contextlib.suppress(OSError, ValueError):
        computed_ns, queued_ns, _ = schedstat.read_text().split()
        return int(computed_ns) / 1e3, int(queued_ns) / 1e3
    return 0.0, 0.0


def _process_us(pid: int) -> float:
    """What all threads of a process have computed, by clock_getcpuclockid(3): Python has that for own threads only."""
    with contextlib.suppress(OSError):
        return time.clock_gettime_ns((~pid << 3) | 2) / 1e3
    return 0.0
