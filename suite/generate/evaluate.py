"""One trial: a function of JSON that gives JSON, so that any executor can carry it to any machine.

Every thread that evaluates has a worker process of its own, which a candidate may hang or kill without harm to others.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import itertools
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ..device.detect import ChosenDevice
from ..measure.compile import COMPILING, PROJECT_ROOT, WITHOUT_LINE_INFO
from ..measure.crew import START_TIMEOUT_S, start_request
from ..measure.process import Worker, WorkerError

Request = dict[str, Any]
Reply = dict[str, Any]
TIMEOUT_S = 60.0
NO_DEVICE = "no_device"
"""Reason of a reply whose worker could not have the device: no choice is to blame."""
_own = threading.local()


def evaluate(request: Request) -> Reply:
    """Serve one request, {"op": "compile_choice", ...}, in this thread's worker. Never raises for a candidate's fault.

    Returns {"status": "compiled" or "failed", "reason", "sentence", "launches", "cost"}; see `compile_choice`.
    """
    return serve(request, COMPILING | WITHOUT_LINE_INFO, None)


def serve(request: Request, environment: dict[str, str], device: ChosenDevice | None) -> Reply:
    """One request in this thread's worker, which is started on `device` where there is none."""
    worker: Worker | None = getattr(_own, "worker", None)
    try:
        if worker is None:
            worker = _own.worker = _SPARES.pop() if device is not None and _SPARES else _started(environment)
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


def _started(environment: dict[str, str]) -> Worker:
    worker = Worker(PROJECT_ROOT, _logs() / f"{next(_NUMBERS)}.log", environment)
    _STARTED.append(worker)
    return worker


def start_spare(templates: Sequence[str]) -> None:
    """Begin a worker for a GPU that is still being looked for: it imports what is slow to import."""
    spare = _started(WITHOUT_LINE_INFO)
    _SPARES.append(spare)
    _WARMING.append(spare)
    spare.send(_warm_up(templates))


def end_spares() -> None:
    """There is no GPU for them."""
    while _SPARES:
        spare = _SPARES.pop()
        _WARMING.remove(spare)
        _STARTED.remove(spare)
        spare.kill()


def _warm_up(templates: Sequence[str]) -> Request:
    return {"op": "warm_up", "kernels": list(templates), "libraries": []}


def _begin_on(worker: Worker, device: ChosenDevice) -> None:
    """WorkerError `no_device` where the worker cannot have the device."""
    try:
        if worker in _WARMING:
            _WARMING.remove(worker)
            worker.receive(START_TIMEOUT_S)
        reply = worker.request(start_request(device), START_TIMEOUT_S)
    except WorkerError as error:
        raise WorkerError(NO_DEVICE, f"{device.name} could not be had. {error.sentence}") from error
    if reply["status"] != "ran":
        raise WorkerError(NO_DEVICE, f"{device.name} could not be had. {reply['sentence']}")


_STARTED: list[Worker] = []
_SPARES: list[Worker] = []
"""Started for a GPU, and not in use yet."""
_WARMING: list[Worker] = []
"""Whose reply to `warm_up` nobody has taken."""
_NUMBERS = itertools.count()


@functools.cache
def _logs() -> Path:
    """A folder for what workers print, gone with this process."""
    folder = tempfile.mkdtemp(prefix="kernelgate-generate-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


@contextlib.contextmanager
def executor(jobs: int, templates: Sequence[str] = ()) -> Iterator[Executor]:
    """Threads of this process, with a worker each; templates and what they import are being imported from now on."""
    threads = ThreadPoolExecutor(jobs)
    try:
        for _ in range(jobs):
            threads.submit(evaluate, _warm_up(templates))
        yield threads
    finally:
        threads.shutdown(wait=False, cancel_futures=True)  # or they would start workers for what still waits
        end_workers()
        threads.shutdown(wait=True)
        _SPARES.clear()
        _WARMING.clear()
        while _STARTED:
            _STARTED.pop().kill()


def end_workers() -> None:
    """A thread that waits for one sees the end of file, and takes it off the list."""
    for worker in tuple(_STARTED):
        with contextlib.suppress(OSError):
            os.killpg(worker.pid, signal.SIGKILL)
