"""The parent's end of compiling: cases go to parallel workers, one at a time, and results come back as they finish.

A case that hangs or crashes its worker (LLVM can abort) costs itself only; the worker is replaced.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import tempfile
import threading
import time
from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kernels.device import Device

from .process import Worker, WorkerError
from .replies import inert

PROJECT_ROOT = Path(__file__).parents[2]
WITHOUT_LINE_INFO = {"TRITON_DISABLE_LINE_INFO": "1"}
COMPILING = {"TRITON_INTERPRET": "0", "TRITON_STORE_BINARY_ONLY": "0"}
Case = tuple[str, str]
"""Kernel id and problem id, `<family>/<Problem.id>`."""


@dataclass(frozen=True)
class CompileResult:
    """What became of one kernel, compiled for one problem and one device."""

    kernel: str
    problem: str
    arch: str
    status: str
    """`compiled`, `failed` or `skipped`."""
    reason: str = ""
    """Reason code: does_not_compile, exceeds_shared_memory, hung, crashed, out_of_memory, unsupported."""
    sentence: str = ""
    detail: str = ""
    """The whole error, over many lines."""
    launches: tuple[dict[str, Any], ...] = ()
    """In the order of the host code; see `intercept.compile_instead_of_launch`."""
    wall_s: float = 0.0
    """Time that it took, most of it Triton's; little where the disk cache had the code."""

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return {**asdict(self), "launches": list(self.launches)}


def compile_all(
    work: Sequence[Case],
    device: Device,
    jobs: int,
    timeout_s: float,
    *,
    root: Path = PROJECT_ROOT,
    base_root: Path | None = None,
    line_info: bool = False,
) -> Generator[CompileResult, None, None]:
    """Compile every case for `device`; results come in order of completion, one a case.

    `root` is the project whose kernels/ is compiled, `base_root` the tree of ids that begin with `base:`. `timeout_s`
    bounds a case, and for a worker's first case its start as well. Without `line_info` the code is free of paths and
    line numbers, as fingerprints need it, and Triton's disk cache serves launches that run `WITHOUT_LINE_INFO`;
    with it, launches under this process's environment. Closing the iterator ends the workers.
    """
    environment = COMPILING | ({} if line_info else WITHOUT_LINE_INFO)
    request = {"op": "compile", "device": asdict(device), "base_root": str(base_root) if base_root else None}
    with tempfile.TemporaryDirectory(prefix="kernelgate-compile-") as logs:
        pool = _Pool(work, request, timeout_s, root, environment, Path(logs))
        count = min(max(1, jobs), len(work))
        threads = [threading.Thread(target=pool.serve, args=(i,), daemon=True) for i in range(count)]
        for thread in threads:
            thread.start()
        try:
            for _ in work:
                outcome = pool.results.get()
                if isinstance(outcome, BaseException):
                    raise outcome
                yield outcome
        finally:
            pool.stop()
            for thread in threads:
                thread.join()


def precompile(work: Sequence[Case], device: Device, jobs: int, timeout_s: float, **trees: Any) -> list[CompileResult]:
    """Fill Triton's disk cache before measured launches, under the environment of this process.

    The cache key holds Triton's version, the function's source and line number, signature, constexprs, alignment,
    options and target, and the `TRITON_*` variables that change code (line info among them): the same here as in a
    launch. Launches still compile what depends on drawn values, such as the divisibility of a page count.
    """
    return list(compile_all(work, device, jobs, timeout_s, line_info=True, **trees))


class _Pool:
    """Threads that each feed one worker from a common queue."""

    def __init__(
        self,
        work: Sequence[Case],
        request: dict[str, Any],
        timeout_s: float,
        root: Path,
        environment: dict[str, str],
        logs: Path,
    ) -> None:
        self.results: queue.SimpleQueue[CompileResult | BaseException] = queue.SimpleQueue()
        self._work: queue.SimpleQueue[Case] = queue.SimpleQueue()
        for case in sorted(work):  # the problems of a kernel follow each other: its functions are compiled once
            self._work.put(case)
        self._request, self._timeout_s = request, timeout_s
        self._root, self._environment, self._logs = root, environment, logs
        self._stopped = threading.Event()
        self._running: dict[int, Worker] = {}
        self._lock = threading.Lock()

    def serve(self, index: int) -> None:
        """One thread: until the work is done, start a worker and feed it until it dies."""
        try:
            while not self._stopped.is_set() and not self._work.empty():
                self._serve_one_worker(index)
        except BaseException as error:  # noqa: BLE001 - the consumer must not wait for a thread that is gone
            self.results.put(error)

    def stop(self) -> None:
        """End all workers. Their threads notice the end of file and clean up."""
        self._stopped.set()
        with self._lock:
            for worker in self._running.values():
                with contextlib.suppress(ProcessLookupError):  # it may have died just now
                    os.killpg(worker.pid, signal.SIGKILL)

    def _serve_one_worker(self, index: int) -> None:
        with self._lock:
            if self._stopped.is_set():
                return
            worker = self._running[index] = Worker(self._root, self._logs / f"{index}.log", self._environment)
        try:
            while not self._stopped.is_set():
                try:
                    case = self._work.get_nowait()
                except queue.Empty:
                    return
                if not self._serve_case(worker, case):
                    return
        finally:
            with self._lock:
                del self._running[index]
            worker.kill()

    def _serve_case(self, worker: Worker, case: Case) -> bool:
        """Returns whether the worker is still good."""
        kernel, problem = case
        begun = time.monotonic()
        try:
            reply = worker.request({**self._request, "kernel": kernel, "problem": problem}, self._timeout_s)
        except WorkerError as error:
            reply = {"status": "failed", "reason": error.reason, "sentence": error.sentence, "lost": True}
        self.results.put(
            CompileResult(
                kernel=kernel,
                problem=problem,
                arch=self._request["device"]["arch"],
                status=reply["status"],
                reason=reply.get("reason", ""),
                sentence=inert(reply.get("sentence", "")),
                detail="\n".join(map(inert, str(reply.get("detail", "")).splitlines())),
                launches=tuple(reply.get("launches", ())),
                wall_s=round(time.monotonic() - begun, 3),
            )
        )
        return not reply.get("lost") and not reply.get("poisoned")
