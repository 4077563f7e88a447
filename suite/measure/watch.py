"""What a worker's processes take, looked at from outside now and then, and how all of them are ended.

Looking is cheap, for it happens while kernels are timed: it reads a few small files of the worker's own processes.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from .fence import Limits
from .resident import resident_bytes

EVERY_S = 0.25
ROUNDS = 40
"""Of looking for processes to end: each may have started others while it was found."""
TOKEN_NAME = "KERNELGATE_WORKER"
"""The variable that marks a worker's processes."""


@dataclass
class Watch:
    """Of one worker: `pid` leads a session, and the environment of all that it starts holds `token`."""

    pid: int
    token: str
    limits: Limits
    log_path: Path
    log_start_bytes: int = 0
    """The log's size when the present request was sent."""
    _network: int = -1
    """A descriptor of the worker's network, where it has one of its own."""
    seen: dict[int, str] = field(default_factory=dict)
    """Every process that was ever found in the worker's tree, and when it started: numbers come back."""

    def trouble(self) -> tuple[str, str] | None:
        """(reason code, sentence) where the worker takes more than it may."""
        pids = [self.pid, *descendants(self.pid)]
        self.seen |= {pid: _status(pid)[1] for pid in pids if pid not in self.seen}
        if len(pids) > self.limits.processes:
            return "crashed", f"It had {len(pids)} processes, and {self.limits.processes} are the most: all were ended."
        threads = max(map(_threads, pids))
        if threads > self.limits.threads:
            return "crashed", f"It had {threads} threads, and {self.limits.threads} are the most: it was ended."
        held = memory_bytes(pids)
        if held > self.limits.memory_bytes:  # after a fork, pages that nobody has written since count several times
            held = min(held, exact_memory_bytes(pids))
        if held > self.limits.memory_bytes:
            return "out_of_memory", (
                f"Its processes held {held / 2**30:.1f} GiB of the machine's memory, and "
                f"{self.limits.memory_bytes / 2**30:.1f} GiB are the most: they were ended."
            )
        return self.printed_too_much()

    def printed_too_much(self) -> tuple[str, str] | None:
        """The same for what it wrote to its log since the request; the log is cut to what may be kept."""
        end = self.log_start_bytes + self.limits.printed_bytes
        try:
            printed = self.log_path.stat().st_size
            if printed <= end:
                return None
            os.truncate(self.log_path, end)
        except OSError:
            return None  # the log was removed, or the disk refuses: neither is this worker's output
        kept = f"{self.limits.printed_bytes / 2**20:g} MiB"
        return "crashed", f"It printed {(printed - self.log_start_bytes) / 2**20:.0f} MiB, and {kept} are the most."

    def remember_network(self) -> None:
        """Note the network that the worker moved into (fence.py), and all that it starts with it.

        Held open, so that no other worker's network is given its number.
        """
        if self._network < 0:
            with contextlib.suppress(OSError):
                network = os.open(f"/proc/{self.pid}/ns/net", os.O_RDONLY)
                self._network = network if os.fstat(network).st_ino != _network(os.getpid()) else _closed(network)

    def end_all(self) -> None:
        """Kill the worker, what it started, and what of that left its session or group."""
        victims = self._of_token({self.pid}) | {
            pid for pid, start in self.seen.items() if start and start == _status(pid)[1]
        }
        victims |= {child for pid in victims for child in descendants(pid)}
        for _ in range(ROUNDS):
            for pid in victims:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGSTOP)  # it starts no more, and its children keep their parent
            more = {child for pid in victims for child in descendants(pid)} - victims
            if not more:
                break
            victims |= more
        with contextlib.suppress(OSError):
            os.killpg(self.pid, signal.SIGKILL)
        _kill(victims)
        for _ in range(ROUNDS):  # what no tree holds any longer: its parent died before it was seen
            strays = (self._of_token(_all_pids()) | self._of_network()) - {self.pid}
            if not strays:
                break
            _kill(strays)
            time.sleep(0.01)
        self._network = _closed(self._network)

    def _of_network(self) -> set[int]:
        """Processes in the worker's network: those too that emptied their environment and lost their parent."""
        if self._network < 0:
            return set()
        inode = os.fstat(self._network).st_ino
        return {pid for pid in _all_pids() if _network(pid) == inode and _status(pid)[0] is not None}

    def _of_token(self, pids: set[int]) -> set[int]:
        """Those of `pids` whose environment or session says that they are this worker's; zombies are not."""
        return {pid for pid in pids if _status(pid)[0] == self.pid or self.token.encode() in _environment(pid)}


def descendants(pid: int) -> list[int]:
    """Process ids of all that descend from a process; none where it is gone."""
    found, todo = list[int](), [pid]
    while todo:
        parent = todo.pop()
        try:
            children = _children(parent)
        except FileNotFoundError:  # it is gone, or this system does not list children
            children = _children_elsewhere(parent)
        found += children
        todo += children
    return found


def memory_bytes(pids: list[int]) -> int:
    """Resident memory of processes together: what each has alone, and what they share once."""
    own, shared = 0, 0
    for pid in pids:
        with contextlib.suppress(OSError, ValueError, IndexError):
            alone, common = resident_bytes(pid)
            own += alone
            shared = max(shared, common)
    return own + shared


def exact_memory_bytes(pids: list[int]) -> int:
    """The same, each shared page counted once: exact, but the system walks all pages for it, and holds them still."""
    total = 0
    for pid in pids:
        with contextlib.suppress(psutil.Error):
            total += psutil.Process(pid).memory_full_info().pss
    return total


def _children(pid: int) -> list[int]:
    threads = os.listdir(f"/proc/{pid}/task")
    found = list[int]()
    for thread in threads:
        try:
            found += map(int, Path(f"/proc/{pid}/task/{thread}/children").read_text().split())
        except FileNotFoundError:
            if thread == str(pid):
                raise
        except OSError:
            continue
    return found


def _children_elsewhere(pid: int) -> list[int]:
    try:
        return [child.pid for child in psutil.Process(pid).children()]
    except psutil.Error:
        return []


def _all_pids() -> set[int]:
    return set(psutil.pids()) - {os.getpid()}


def _status(pid: int) -> tuple[int | None, str]:
    """A process's session and the moment that it started; of one that has ended, None and nothing."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return (None, "") if fields[0] in "ZX" else (int(fields[3]), fields[19])
    except (OSError, ValueError, IndexError):
        return None, ""


def _threads(pid: int) -> int:
    """How many threads a process has; none where it is gone."""
    try:
        return len(os.listdir(f"/proc/{pid}/task"))
    except OSError:
        return 0


def _network(pid: int) -> int:
    """The number of a process's network; 0 where it is gone, or another user's."""
    try:
        return os.stat(f"/proc/{pid}/ns/net").st_ino
    except OSError:
        return 0


def _closed(descriptor: int) -> int:
    """-1, which stands for a descriptor that is closed."""
    if descriptor >= 0:
        os.close(descriptor)
    return -1


def _environment(pid: int) -> bytes:
    """What a process began with. Just while another program takes its place it has none, and is asked again."""
    with contextlib.suppress(OSError):
        for _ in range(ROUNDS):
            environment = Path(f"/proc/{pid}/environ").read_bytes()
            if environment or not _is_taken_over(pid):
                return environment
            time.sleep(0.001)
    return b""


def _is_taken_over(pid: int) -> bool:
    """Whether a process without an environment may have one soon: the kernel has not yet said where it lies, or has
    since it was read (proc_pid_stat(5): vsize, env_start, env_end)."""
    fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    size, start, end = (int(fields[place - 3]) for place in (23, 50, 51))
    return size > 0 and not 0 < start == end


def _kill(pids: set[int]) -> None:
    for pid in pids:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
