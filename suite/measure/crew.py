"""The workers of one run by role, and their replacement.

candidate     runs kernels for correctness            launch   runs one launch's timed calls; fresh for each
referee       runs the reference and compares         interpreter   Triton kernels on the CPU
"""

from __future__ import annotations

import compileall
import contextlib
import errno
import functools
import os
import re
import signal
import sys
import tempfile
from collections import defaultdict
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kernels.device import Device
from kernels.discover import BASE_PREFIX, discover

from ..device.clocks import memory_used_bytes
from ..device.detect import ChosenDevice
from ..record.source import MEASURED_FOLDERS, copy_measured
from .compile import WITHOUT_LINE_INFO
from .fence import limits_here
from .folders import has_room, new_folder, remove
from .process import Answer, Worker, WorkerError
from .replies import malformed
from .turns import Turns

START_TIMEOUT_S = 180.0
START_ATTEMPTS = 4
MALLOC_FILLS = {"MALLOC_PERTURB_": "128"}
"""glibc fills what it hands out with 0x7f, 3.4e38 or NaN in every float type: what a kernel leaves unwritten on the CPU
never holds an old answer, nor a zero that happens to be right. Where kernels are checked, not where they are timed."""
MALLOC_KEEPS = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40)}
"""glibc keeps large blocks instead of returning them: whether a call on the CPU had to fault its pages in was a lottery
between launches, which moved the ratio of two kernels from 0.28 to 0.40 (0.50 to 0.54 without it). Where kernels are
timed; GPU memory has PyTorch's own pool."""
SLEEPS_WHILE_WAITING = {"OMP_WAIT_POLICY": "PASSIVE"}
"""OpenMP's threads spin while they wait for work, on cores that another worker could use. Where nothing is timed."""
LIBRARY_ORIGINS = ("vendor", "reference")
CASE_ROLES = ("candidate", "interpreter")
BLOATED_FRACTION = 0.75
"""Of the memory that a worker may hold, or of the device's: from there on it is replaced between cases."""
SPARE_TIMEOUT_S = 20.0
"""How long a launch waits for a spare worker to be warm before it starts one of its own."""
MAX_SPARES, CORES_PER_SPARE = 3, 5
"""So many launches' processes are started while the present one measures: one takes 10 s to import what it needs."""


class RunError(Exception):
    """The run cannot go on, through no kernel's fault; the text says why."""


class UnfitError(RunError):
    """The device, or its driver, cannot be judged on (any longer)."""


@dataclass
class Crew:
    """Starts a worker when its role is first asked for. `close` ends them all."""

    root: Path
    chosen: ChosenDevice
    log_path: Path
    base_root: Path | None = None
    turns: Turns = field(default_factory=Turns)
    """Where several crews share one device, theirs are the same."""
    doubts: bool = True
    """Whether what fails behind others is asked again alone; not where somebody else will do so."""
    warmed_kernels: list[str] = field(default_factory=list)
    """Kernels whose imports a spare launch worker does ahead."""
    _workers: dict[str, Worker] = field(default_factory=dict)
    _answered: set[str] = field(default_factory=set)
    """Roles whose present worker has answered a request."""
    _failed_alone: set[str] = field(default_factory=set)
    """Kernels that failed in a process of their own: what they are blamed for later is not doubted again."""
    _has_started: bool = False
    _spares: dict[str, list[Worker]] = field(default_factory=lambda: defaultdict(list))
    """Role -> processes that import what is slow to import, ahead of their turn."""
    _replaced: set[str] = field(default_factory=set)
    """Roles of which a worker was ended."""
    _referee_root: Path | None = None
    _is_stopped: bool = False

    def request(
        self, role: str, message: dict[str, Any], timeout_s: float, answer: Answer | None = None
    ) -> dict[str, Any]:
        """A request whose failure is a reply as well; a worker that is of no further use is replaced.

        What fails in a worker that has answered before, or that somebody killed, is asked again of a fresh one: what an
        earlier case left behind (no file may be opened any longer, a lock is held), or another program did, is not this
        one's fault. OSError where the disk is full: no kernel is to blame, and none could run.
        """
        is_fresh = role not in self._answered
        reply = self._ask(role, message, timeout_s, answer)
        was_killed = reply.pop("was_killed", False)
        may_be_others = self.doubts and message.get("kernel") not in self._failed_alone
        may_be_others = may_be_others or reply.get("reason") == "out_of_memory"  # which depends on the problem
        doubtful = reply["status"] == "failed" and not is_fresh and may_be_others
        if answer is None and (was_killed or doubtful):
            self.retire(role)
            reply, is_fresh = self._ask(role, message, timeout_s, answer), True
            reply.pop("was_killed", None)
        if reply["status"] == "failed" and is_fresh and "kernel" in message:
            self._failed_alone.add(message["kernel"])
        if reply.get("reason") == "disk_full":
            reply = self._unless_disk_is_full(reply, message)
        return reply

    def _unless_disk_is_full(self, reply: dict[str, Any], message: dict[str, Any]) -> dict[str, Any]:
        """The kernel's own failure where there is room, now that its worker's folder is gone: it filled that, or says
        so. Else OSError."""
        written = (tempfile.gettempdir(), message.get("output_dir"), os.environ.get("TRITON_CACHE_DIR"),
                   os.path.expanduser("~"), str(self.log_path.parent))  # fmt: skip
        full = next((folder for folder in written if folder and not has_room(folder)), None)
        if full is not None:
            during = f" while {message['kernel']} ran" if "kernel" in message else ""
            raise OSError(errno.ENOSPC, f"{reply['sentence']}{during}. Make room in {full}")
        return reply | {"reason": "raised", "sentence": f"{reply['sentence']}; but there is room on it."}

    def _ask(self, role: str, message: dict[str, Any], timeout_s: float, answer: Answer | None) -> dict[str, Any]:
        try:
            worker = self.worker(role)
            with self.turns.of(message["op"]):
                reply = worker.request(message, timeout_s, answer)
        except WorkerError as error:
            self.retire(role)
            status = "incorrect" if error.reason == "tampered" else "failed"
            killed = {"was_killed": True} if error.reason == "out_of_memory" else {}
            return {"status": status, "reason": error.reason, "sentence": error.sentence} | killed
        self._answered.add(role)
        fault = malformed(message, reply)
        if fault:
            self.retire(role)
            return {"status": "incorrect", "reason": "tampered", "sentence": fault}
        failed = reply["status"] == "failed"  # who knows what it left behind
        if reply.pop("poisoned", False) or (role in CASE_ROLES and (failed or self._is_bloated(worker))):
            self.retire(role)
        return reply

    def _is_bloated(self, worker: Worker) -> bool:
        """Whether a worker holds so much memory between cases that the next case might lack it."""
        on_device = memory_used_bytes(self.chosen)
        return worker.memory_bytes() > BLOATED_FRACTION * worker.limits.memory_bytes or (
            on_device is not None and on_device > BLOATED_FRACTION * self.chosen.memory_bytes
        )

    def worker(self, role: str) -> Worker:
        """The role's worker, started and on the device. RunError where it cannot start: no kernel is to blame."""
        self._refuse_if_stopped()
        if role not in self._workers:
            self._workers[role] = self._started_in_time(role)
            self._answered.discard(role)
            self._has_started = True
            self._refuse_if_stopped()  # `stop` saw no worker while this one started
            if role in CASE_ROLES and role in self._replaced:  # where one kernel was wrong, another may be
                with contextlib.suppress(OSError):  # what that one left may also keep the next process from starting
                    self._prepare_spare(role, [])
        return self._workers[role]

    def _refuse_if_stopped(self) -> None:
        if self._is_stopped:
            raise RunError("The run was ended.")

    def _started_in_time(self, role: str) -> Worker:
        """A worker on the device. A spare may be broken by an import, a device not yet free, and anything killed."""
        for attempt in range(START_ATTEMPTS):
            try:
                return self._started(self._spawn(role) if attempt else self._take_spare(role))
            except WorkerError as error:
                why = error
                if error.reason == "hung" and attempt:
                    break
        lost = UnfitError if self._has_started else RunError
        raise lost(f"The {role} worker could not start: {why.sentence}") from why

    def _started(self, worker: Worker) -> Worker:
        message = start_request(self.chosen, self.base_root)
        if worker.environment.get("TRITON_INTERPRET") == "1":
            message["device"]["kind"] = "cpu"
        reply = worker.request(message, START_TIMEOUT_S)
        if reply["status"] != "ran":
            worker.kill()
            raise WorkerError(reply["reason"], reply["sentence"])
        return worker

    def start(self, role: str) -> None:
        """Have a role's worker ready before it is timed. RunError where it cannot start."""
        for case_role in CASE_ROLES:
            self._end_spares(case_role)
        self.worker(role)
        if role == "launch":
            self.prepare_spares()

    def expect(self, role: str) -> None:
        """Begin to start a worker that will soon be asked, while another answers."""
        if role not in self._workers and not self._spares[role]:
            self._prepare_spare(role, [])

    def prepare_spares(self) -> None:
        """Start the next launches' processes early: their imports keep a core busy each, not the device."""
        wanted = 0 if self.chosen.device.kind == "cpu" else min(MAX_SPARES, (os.cpu_count() or 1) // CORES_PER_SPARE)
        while len(self._spares["launch"]) < wanted:
            self._prepare_spare("launch", self.warmed_kernels)

    def _prepare_spare(self, role: str, kernels: list[str]) -> None:
        spare = self._spawn(role)
        spare.send({"op": "warm_up", "kernels": kernels, "libraries": self.libraries(kernels)})
        self._spares[role].append(spare)

    def retire(self, role: str) -> None:
        """End a role's worker, if it has one."""
        worker = self._workers.pop(role, None)
        if worker:
            worker.kill()
            self._replaced.add(role)

    def stop(self) -> None:
        """From another thread: end the request that is under way, and start no worker for another. `close` follows."""
        self._is_stopped = True
        for worker in list(self._workers.values()):
            with contextlib.suppress(OSError):
                os.killpg(worker.pid, signal.SIGKILL)

    def close(self) -> None:
        """End all workers."""
        for role in list(self._workers):
            self.retire(role)
        for role in self._spares:
            self._end_spares(role)
        if self._referee_root:
            remove(self._referee_root)
            self._referee_root = None

    def _end_spares(self, role: str) -> None:
        while self._spares[role]:
            self._spares[role].pop().kill()

    def describe(self, kernels: list[str], problems: list[str], device: Device, timeout_s: float) -> dict[str, Any]:
        """Which kernels run which problems on `device`, and why others do not: see `describe.describe`."""
        message = {"op": "describe", "kernels": kernels, "libraries": self.libraries(kernels), "problems": problems,
                   "device": asdict(device)}  # fmt: skip
        return self.request("candidate", message, timeout_s)

    def libraries(self, kernels: list[str]) -> list[str]:
        """Those that nobody claims anything for, as their source says: see `tampering.untouched`."""
        return [kernel for kernel in kernels if self._origins.get(kernel) in LIBRARY_ORIGINS]

    def origin(self, kernel: str) -> str | None:
        """Of a kernel of either tree, as its source says."""
        return self._origins.get(kernel)

    @functools.cached_property
    def _origins(self) -> dict[str, str]:
        base = discover(self.base_root, BASE_PREFIX) if self.base_root else {}
        return {kernel.id: kernel.origin for kernel in (discover(self.root) | base).values()}

    def pids(self) -> list[int]:
        """Processes that are ours: the parent's and all workers'."""
        spares = (spare for waiting in self._spares.values() for spare in waiting)
        return [os.getpid(), *(worker.pid for worker in (*self._workers.values(), *spares))]

    def _take_spare(self, role: str) -> Worker:
        """A spare, or where there is none, a new worker."""
        if not self._spares[role]:
            return self._spawn(role)
        spare = self._spares[role].pop(0)
        try:
            spare.receive(SPARE_TIMEOUT_S)  # the reply to warm_up
        except WorkerError:  # a kernel's import killed it, or is slow; where that matters it will be told again
            return self._spawn(role)
        return spare

    def __post_init__(self) -> None:
        """Settle what is imported before any kernel runs: nobody writes compiled files from here on.

        This process does not either: what it imports later would look like a change of the tree by a kernel.
        """
        sys.dont_write_bytecode = True
        self._referee_tree()
        for root in {self.root, self.base_root or self.root}:
            for part in MEASURED_FOLDERS:
                compileall.compile_dir(root / part, quiet=2, rx=re.compile("selftest"))

    def _spawn(self, role: str) -> Worker:
        # Without line info, launches find what was compiled ahead, for a comparison with the base for instance.
        environment = {"TRITON_INTERPRET": "1"} if role == "interpreter" else WITHOUT_LINE_INFO
        if role in ("candidate", "interpreter"):
            environment = environment | MALLOC_FILLS
        environment = environment | (MALLOC_KEEPS if role == "launch" else SLEEPS_WHILE_WAITING)
        root = self._referee_tree() if role == "referee" else self.root
        environment = environment | {"PYTHONDONTWRITEBYTECODE": "1"}
        return Worker(root, self.log_path, environment, limits_here(self.chosen.device.kind == "cpu"))

    @property
    def trees(self) -> set[Path]:
        """Copies of the project that workers run."""
        return {self.root, self.base_root or self.root, self._referee_tree()}

    def _referee_tree(self) -> Path:
        """A copy of the tree from before any kernel ran, without compiled files: what it judges by, no kernel edits."""
        if self._referee_root is None:
            self._referee_root = new_folder("kernelgate-referee-")
            copy_measured(self.root, self._referee_root)
        return self._referee_root


def start_request(chosen: ChosenDevice, base_root: Path | None = None) -> dict[str, Any]:
    """The first request to a worker: which device is its own, and the tree of the base commit."""
    return {"op": "start", "device": asdict(chosen.device), "torch_index": chosen.index,
            "base_root": str(base_root) if base_root else None}  # fmt: skip
