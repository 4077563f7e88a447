"""One trial: a function of JSON that gives JSON, so that any executor can carry it to any machine.

Every thread that evaluates has a worker process of its own, which a candidate may hang or kill without harm to others.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ..device.detect import ChosenDevice
from ..measure.compile import COMPILING, PROJECT_ROOT, WITHOUT_LINE_INFO
from ..measure.crew import START_TIMEOUT_S, start_request
from ..measure.process import Worker, WorkerError

Request = dict[str, Any]
Reply = dict[str, Any]
TIMEOUT_S = 60.0
_own = threading.local()


def evaluate(request: Request) -> Reply:
    """Serve one request, {"op": "compile_choice", ...}, in this thread's worker. Never raises for a candidate's fault.

    Returns {"status": "compiled" or "failed", "reason", "sentence", "launches", "cost"}; see `compile_choice`.
    """
    return _serve(request, COMPILING | WITHOUT_LINE_INFO, None)


class Measuring:
    """Evaluates as `evaluate` does, and times what compiled on this machine's GPUs: one choice at a time on each.

    A GPU takes the choices of the problem that it is at before those of others, whose inputs it would have to draw.
    """

    def __init__(self, chosen: Sequence[ChosenDevice], seed: int) -> None:
        self._cache_bytes = max(device.last_level_cache_bytes for device in chosen)
        self._seed = seed
        self._waiting: list[tuple[Request, Future[Reply]]] = []
        self._changed = threading.Condition()
        self._closed = False
        self._threads = [threading.Thread(target=self._time_all, args=(device,), daemon=True) for device in chosen]
        for thread in self._threads:
            thread.start()

    def __call__(self, request: Request) -> Reply:
        """One trial: its machine code's figures, and its time beside the choice by hand; see `measure_choice`."""
        compiled = evaluate(request)
        if compiled["status"] != "compiled":
            return compiled
        timed: Future[Reply] = Future()
        with self._changed:
            if self._closed:
                raise CancelledError
            self._waiting.append((request, timed))
            self._changed.notify()
        return compiled | timed.result()

    def _time_all(self, device: ChosenDevice) -> None:
        problem = None
        while (taken := self._take(problem)) is not None:
            request, timed = taken
            problem = request.get("problem")
            message = request | {"op": "measure_choice", "cache_bytes": self._cache_bytes, "seed": self._seed}
            try:
                timed.set_result(_serve(message, WITHOUT_LINE_INFO, device))
            except Exception as error:  # noqa: BLE001 - told to whoever waits
                timed.set_exception(error)

    def _take(self, problem: str | None) -> tuple[Request, Future[Reply]] | None:
        """The next choice, of `problem` if there is one; None once all is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            if self._closed:
                return None
            same = (n for n, (request, _) in enumerate(self._waiting) if request.get("problem") == problem)
            return self._waiting.pop(next(same, 0))

    def close(self) -> None:
        """End the threads; whoever still waits hears of it. Their workers end with the others'."""
        with self._changed:
            self._closed = True
            for _, timed in self._waiting:
                timed.cancel()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()


def _serve(request: Request, environment: dict[str, str], device: ChosenDevice | None) -> Reply:
    """One request in this thread's worker, which is started on `device` where there is none."""
    worker = getattr(_own, "worker", None)
    try:
        if worker is None:
            worker = _own.worker = Worker(PROJECT_ROOT, _logs() / f"{threading.get_ident()}.log", environment)
            _STARTED.append(worker)
            if device is not None:
                _begin_on(worker, device)
        reply: Reply = worker.request(dict(request), TIMEOUT_S)
    except WorkerError as error:
        reply = {"status": "failed", "reason": error.reason, "sentence": error.sentence, "lost": True}
    if worker is not None and (reply.get("lost") or reply.get("poisoned")):
        worker.kill()
        _STARTED.remove(worker)
        _own.worker = None
    return reply


def _begin_on(worker: Worker, device: ChosenDevice) -> None:
    """WorkerError where the worker cannot have the device."""
    reply = worker.request(start_request(device), START_TIMEOUT_S)
    if reply["status"] != "ran":
        raise WorkerError(reply["reason"], f"{device.name} could not be had. {reply['sentence']}")


_STARTED: list[Worker] = []


@functools.cache
def _logs() -> Path:
    """A folder for what workers print, gone with this process."""
    folder = tempfile.mkdtemp(prefix="kernelgate-generate-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


@contextlib.contextmanager
def executor(jobs: int) -> Iterator[Executor]:
    """Threads of this process, with a worker each."""
    threads = ThreadPoolExecutor(jobs)
    try:
        yield threads
    finally:
        threads.shutdown(wait=False, cancel_futures=True)  # or they would start workers for what still waits
        for worker in tuple(_STARTED):  # a thread that waits for one sees the end of file, and takes it off the list
            with contextlib.suppress(OSError):
                os.killpg(worker.pid, signal.SIGKILL)
        threads.shutdown(wait=True)
        while _STARTED:
            _STARTED.pop().kill()
