"""In the worker: threads and processes that one kernel started, and whether they compute while another is called.

Looked at are threads that run Python, and child processes: a pool that a compiler's library started for one kernel may
well compute for the next.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path

from .watch import descendants

MOST_BESIDE = 0.2
"""Share of other kernels' calls, by CPU time and in the median. Libraries' threads spin before they sleep, but not
through the flush that comes before a call."""

Task = tuple[int, int, int]
"""Process, thread, and when it started: numbers come back."""


@dataclass(slots=True)
class Helpers:
    """Of this process, except its main thread."""

    owners: dict[Task, str] = field(default_factory=dict)
    """Everything that was ever seen -> the kernel that was at work when it was first seen, or nobody."""
    _busy_ns: dict[Task, int] = field(default_factory=dict)
    _beside: dict[str, list[float]] = field(default_factory=dict)
    """Kernel -> in each call of another kernel, CPU time of its helpers over the call's own time."""

    def claim(self, kernel: str) -> None:
        """What was not there before is `kernel`'s; nobody's, where it is empty."""
        for task in _tasks():
            self.owners.setdefault(task, kernel)

    def call_begins(self) -> None:
        """Outside the interval."""
        self._busy_ns = {task: _busy_ns(task) for task, owner in self.owners.items() if owner}

    def call_ended(self, kernel: str, time_us: float) -> None:
        """A call of `kernel` took so long; what it started is its own."""
        used_ns: dict[str, int] = {owner: 0 for owner in self.owners.values() if owner and owner != kernel}
        for task, before_ns in self._busy_ns.items():
            if self.owners[task] in used_ns:
                used_ns[self.owners[task]] += max(0, _busy_ns(task) - before_ns)
        for owner, busy_ns in used_ns.items():
            self._beside.setdefault(owner, []).append(busy_ns / 1e3 / time_us)
        self.claim(kernel)

    def culprit(self) -> str | None:
        """The kernel whose helpers computed beside the others' calls since it was last asked for."""
        guilty = [owner for owner, shares in self._beside.items() if statistics.median(shares) > MOST_BESIDE]
        self._beside = {}
        return guilty[0] if guilty else None


HELPERS = Helpers()
"""Of this process, whatever it measures."""


def _tasks() -> list[Task]:
    """Threads of this process that run Python, and all of what descends from it; none where this is not Linux."""
    if sys.platform != "linux":
        return []
    me = os.getpid()
    threads = {me: [thread.native_id or me for thread in threading.enumerate()]}
    others = descendants(me)
    if len(sys._current_frames()) > len(threads[me]):  # noqa: SLF001 - some were started past the module threading
        others.append(me)
    for pid in others:
        with contextlib.suppress(OSError):
            threads[pid] = [int(name) for name in os.listdir(f"/proc/{pid}/task")]
    return [(pid, thread, _started(pid, thread)) for pid, of in threads.items() for thread in of if thread != me]


def _started(pid: int, thread: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/task/{thread}/stat").read_text(errors="replace").rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return 0


def _busy_ns(task: Task) -> int:
    """CPU time that a thread has had; 0 once it is gone."""
    try:
        return int(Path(f"/proc/{task[0]}/task/{task[1]}/schedstat").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return 0
