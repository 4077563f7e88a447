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

import psutil

NOTICED_US = 100.0
"""A shorter wait in line is granted without looking for the worker's children."""
TICK_S = 0.05
"""The system counts in hundredths of a second, on each processor."""
CALM_CORES = 0.2
"""What other programs may compute, in cores, where a delay of part of a millisecond is still held against a kernel."""

Load = tuple[float, float, float]
"""A moment; seconds that all processors were busy until then, and for this process, its worker and what that began."""
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

    def load(self) -> Load:
        """To hand to `is_calm` later."""
        busy = psutil.cpu_times()
        busy_s = sum(busy) - busy.idle - getattr(busy, "iowait", 0.0) - getattr(busy, "guest", 0.0)
        return time.monotonic(), busy_s, (_process_us(os.getpid()) + _process_us(self._pid)) / 1e6 + self._children_s()

    def is_calm(self, since: Load) -> bool:
        """Whether other programs computed little since then, on all processors together."""
        took_s, busy_s, ours_s = (now - then for now, then in zip(self.load(), since, strict=True))
        return busy_s - ours_s < CALM_CORES * took_s + TICK_S

    def _children_s(self) -> float:
        with contextlib.suppress(psutil.Error):
            return sum(_process_us(child.pid) / 1e6 for child in psutil.Process(self._pid).children(recursive=True))
        return 0.0

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
