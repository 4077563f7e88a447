"""In the worker: threads and processes that one kernel started, and whether they compute when they must not.

Not while another kernel is called, nor between the moment when a call's inputs are drawn and its beginning. Looked at
are threads that run Python, and child processes: a pool that a compiler's library started for one kernel may well
compute for the next.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from .watch import descendants

MOST_ELSEWHERE = 0.2
"""Share of a call, by CPU time and in the median. Libraries' threads spin before they sleep, but not through the flush
that comes before a call."""
SHORTEST_US = 250.0
"""Against a shorter call the share would be one of a thread's waking up."""

Task = tuple[int, int, int]
"""Process, thread (0: all of it), and when it started: numbers come back."""


@dataclass(slots=True)
class Helpers:
    """Of this process, except its main thread."""

    owners: dict[Task, str] = field(default_factory=dict)
    """Everything that was ever seen -> the kernel that was at work when it was first seen, or nobody."""
    _busy_ns: dict[Task, int] = field(default_factory=dict)
    _ahead_ns: int = 0
    _elsewhere: dict[tuple[str, bool], list[float]] = field(default_factory=dict)
    """(kernel, whether ahead of its own calls or in others') -> CPU time of its helpers over the call's own."""

    def claim(self, kernel: str) -> None:
        """What was not there before is `kernel`'s; nobody's, where it is empty."""
        for task in _tasks():
            self.owners.setdefault(task, kernel)

    def draw_begins(self) -> None:
        """Before the inputs of a call are drawn."""
        self._busy_ns = {task: _busy_ns(task) for task, owner in self.owners.items() if owner}

    def call_begins(self, kernel: str) -> None:
        """Right before a call of `kernel`."""
        self._ahead_ns = self._used_ns().get(kernel, 0)
        self.draw_begins()

    def call_ended(self, kernel: str, time_us: float) -> None:
        """A call of `kernel` took so long; what it started is its own."""
        for owner, busy_ns in (self._used_ns() | {kernel: self._ahead_ns}).items():
            share = busy_ns / 1e3 / max(time_us, SHORTEST_US)
            self._elsewhere.setdefault((owner, owner == kernel), []).append(share)
        self.claim(kernel)

    def culprit(self) -> str | None:
        """A kernel whose helpers computed elsewhere than in its calls, since it was last asked for."""
        guilty = [owner for (owner, _), shares in self._elsewhere.items() if statistics.median(shares) > MOST_ELSEWHERE]
        self._elsewhere = {}
        return guilty[0] if guilty else None

    def _used_ns(self) -> dict[str, int]:
        """Kernel -> CPU time of its helpers since it was looked at."""
        used_ns = {owner: 0 for owner in self.owners.values() if owner}
        for task, before_ns in self._busy_ns.items():
            used_ns[self.owners[task]] += max(0, _busy_ns(task) - before_ns)
        return used_ns


HELPERS = Helpers()
"""Of this process, whatever it measures."""


def _tasks() -> list[Task]:
    """Threads of this process that run Python, and all that descends from it; none where this is not Linux."""
    if sys.platform != "linux":
        return []
    me = os.getpid()
    threads = [thread.native_id or me for thread in threading.enumerate()]
    if len(sys._current_frames()) > len(threads):  # noqa: SLF001 - some were started past the module threading
        threads = [int(name) for name in os.listdir("/proc/self/task")]
    found = [(me, thread, _started(f"{me}/task/{thread}")) for thread in threads if thread != me]
    return found + [(pid, 0, _started(str(pid))) for pid in descendants(me)]


def _started(place: str) -> int:
    try:
        return int(Path(f"/proc/{place}/stat").read_text(errors="replace").rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return 0


def _busy_ns(task: Task) -> int:
    """CPU time that it has had by its own clock, as Linux numbers these; 0 once it is gone."""
    pid, thread, _ = task
    with contextlib.suppress(OSError):
        return time.clock_gettime_ns((~thread << 3) | 6 if thread else (~pid << 3) | 2)
    return 0
