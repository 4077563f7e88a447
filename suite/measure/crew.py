"""The workers of one run by role, and their replacement.

candidate     runs kernels for correctness            launch   runs one launch's timed calls; fresh for each
referee       runs the reference and compares         interpreter   Triton kernels on the CPU
"""

from __future__ import annotations

import errno
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..device.detect import ChosenDevice
from .compile import WITHOUT_LINE_INFO
from .process import Worker, WorkerError

START_TIMEOUT_S = 180.0
MALLOC_FILLS = {"MALLOC_PERTURB_": "128"}
"""glibc fills what it hands out with 0x7f, 3.4e38 or NaN in every float type: what a kernel leaves unwritten on the CPU
never holds an old answer, nor a zero that happens to be right. Where kernels are checked, not where they are timed."""
MALLOC_KEEPS = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40)}
"""glibc keeps large blocks instead of returning them: whether a call on the CPU had to fault its pages in was a lottery
between launches, which moved the ratio of two kernels from 0.28 to 0.40 (0.50 to 0.54 without it). Where kernels are
timed; GPU memory has PyTorch's own pool."""
SPARE_TIMEOUT_S = 20.0
"""How long a launch waits for a spare worker to be warm before it starts one of its own."""
SPARE_WORKER_CORES = 8
"""From this many CPU cores on, the next launch's process is started while the present one measures."""


class RunError(Exception):
    """The run cannot go on, through no kernel's fault; the text says why."""


@dataclass
class Crew:
    """Starts a worker when its role is first asked for. `close` ends them all."""

    root: Path
    chosen: ChosenDevice
    log_path: Path
    base_root: Path | None = None
    warmed_kernels: list[str] = field(default_factory=list)
    """Kernels whose imports a spare launch worker does ahead."""
    _workers: dict[str, Worker] = field(default_factory=dict)
    _spare: Worker | None = None

    def request(self, role: str, message: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        """A request whose failure is a reply as well; a worker that is of no further use is replaced.

        OSError where the disk is full: no kernel is to blame, and none could run.
        """
        try:
            reply = self.worker(role).request(message, timeout_s)
        except WorkerError as error:
            self.retire(role)
            return {"status": "failed", "reason": error.reason, "sentence": error.sentence}
        if reply.pop("poisoned", False):
            self.retire(role)
        if reply.get("reason") == "disk_full":
            raise OSError(errno.ENOSPC, f"{reply['sentence']}. Make room for outputs and compiled code.")
        return reply

    def worker(self, role: str) -> Worker:
        """The role's worker, started and on the device. WorkerError where it cannot start."""
        if role not in self._workers:
            self._workers[role] = self._take_spare() if role == "launch" else self._spawn(role)
            device = asdict(self.chosen.device) | ({"kind": "cpu"} if role == "interpreter" else {})
            message = {"op": "start", "device": device, "torch_index": self.chosen.index,
                       "base_root": str(self.base_root) if self.base_root else None}  # fmt: skip
            reply = self._workers[role].request(message, START_TIMEOUT_S)
            if reply["status"] != "ran":
                raise RunError(f"The {role} worker could not start: {reply['sentence']}")
        return self._workers[role]

    def start(self, role: str) -> None:
        """Have a role's worker ready before it is timed; where it cannot start, the request will say why."""
        try:
            self.worker(role)
        except WorkerError:
            self.retire(role)
        if role == "launch":
            self.prepare_spare()

    def prepare_spare(self) -> None:
        """Start the next launch's process early: its imports keep a core busy, not the device."""
        if self._spare is None and (os.cpu_count() or 1) >= SPARE_WORKER_CORES and self.chosen.device.kind != "cpu":
            self._spare = self._spawn("launch")
            self._spare.send({"op": "warm_up", "kernels": self.warmed_kernels})

    def retire(self, role: str) -> None:
        """End a role's worker, if it has one."""
        worker = self._workers.pop(role, None)
        if worker:
            worker.kill()

    def close(self) -> None:
        """End all workers."""
        for role in list(self._workers):
            self.retire(role)
        if self._spare:
            self._spare.kill()
            self._spare = None

    def pids(self) -> list[int]:
        """Processes that are ours: the parent's and all workers'."""
        return [os.getpid(), *(w.pid for w in self._workers.values()), *([self._spare.pid] if self._spare else [])]

    def _take_spare(self) -> Worker:
        if self._spare is None:
            return self._spawn("launch")
        spare, self._spare = self._spare, None
        try:
            spare.receive(SPARE_TIMEOUT_S)  # the reply to warm_up
        except WorkerError:  # a kernel's import killed it, or is slow; where that matters it will be told again
            return self._spawn("launch")
        return spare

    def _spawn(self, role: str) -> Worker:
        # Without line info, launches find what was compiled ahead, for a comparison with the base for instance.
        environment = {"TRITON_INTERPRET": "1"} if role == "interpreter" else WITHOUT_LINE_INFO
        if role in ("candidate", "interpreter"):
            environment = environment | MALLOC_FILLS
        if role == "launch":
            environment = environment | MALLOC_KEEPS
        return Worker(self.root, self.log_path, environment)
