"""In the worker: threads and processes that one kernel started, and whether they compute when they must not.

Not while another kernel is called, nor between the moment when a call's inputs are drawn and its beginning. Looked at
are threads that run Python, and child processes: a pool that a library started for one kernel may well compute for the
next. Threads without Python must rest while no kernel is called.
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

MOST_AT_REST = 0.3
"""Of the main thread's CPU time while caches are flushed, at most as much each time and in the mean, by threads without
Python: these spin for a moment after a call."""

Task = tuple[int, int, int]
"""Process, thread (0: all of it), and when it started: numbers come back."""


@dataclass(slots=True)
class Helpers:
    """Of this process, except its main thread."""

    owners: dict[Task, str] = field(default_factory=dict)
    """Everything that was ever seen -> the kernel that was at work when it was first seen, or nobody."""
    _busy_ns: dict[Task, int] = field(default_factory=dict)
    _ahead_ns: int = 0
    _at_rest: dict[str, list[float]] = field(default_factory=dict)
    """Kernel -> CPU time of its threads without Python while no kernel was called, over the main thread's."""
    _elsewhere: dict[tuple[str, bool], list[float]] = field(default_factory=dict)
    """(kernel, whether ahead of its own calls or in others') -> CPU time of its helpers over the call's own."""

    compiled: dict[Task, str] = field(default_factory=dict)
    """The same of threads that run no Python."""
    _resting_ns: dict[Task, int] = field(default_factory=dict)
    """CPU time that they, and the main thread, had had when the latest call was over."""

    def claim(self, kernel: str) -> None:
        """What was not there before is `kernel`'s; nobody's, where it is empty."""
        for task in _tasks():
            self.owners.setdefault(task, kernel)
        for task in _compiled_tasks(set(self.owners)):
            self.compiled.setdefault(task, kernel)

    def rest_begins(self) -> None:
        """A call is over, its outputs handed over: until the next inputs are drawn only the harness computes."""
        watched = [task for task, owner in self.compiled.items() if owner]
        self._resting_ns = {task: _busy_ns(task) for task in (*watched, _main_task())} if watched else {}

    def rest_ends(self) -> None:
        """Before the inputs of the next call are drawn."""
        used_ns = {task: max(0, _busy_ns(task) - before_ns) for task, before_ns in self._resting_ns.items()}
        main_ns = used_ns.pop(_main_task(), 0)
        by_owner = dict.fromkeys((self.compiled[task] for task in used_ns), 0)
        for task, busy_ns in used_ns.items():
            by_owner[self.compiled[task]] += busy_ns
        for owner, busy_ns in by_owner.items():
            self._at_rest.setdefault(owner, []).append(min(1.0, busy_ns / max(main_ns, SHORTEST_US * 1e3)))

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
        guilty += [owner for owner, shares in self._at_rest.items() if statistics.fmean(shares) > MOST_AT_REST]
        self._elsewhere, self._at_rest = {}, {}
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


def _compiled_tasks(known: set[Task]) -> list[Task]:
    """Threads of this process that are none of these, but for the main one; none where this is not Linux."""
    if sys.platform != "linux":
        return []
    me, python = os.getpid(), {thread for _, thread, _ in known}
    threads = [int(name) for name in os.listdir("/proc/self/task")]
    return [(me, t, _started(f"{me}/task/{t}")) for t in threads if t != me and t not in python]


def _main_task() -> Task:
    return os.getpid(), os.getpid(), 0


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
