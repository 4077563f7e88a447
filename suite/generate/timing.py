"""Trials that are compiled on the CPU and then timed on this machine's GPUs, one choice at a time on each.

What compiled waits for a GPU without holding the process that compiled it: the next choice compiles there while this
one is timed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from typing import Any

from ..device.detect import ChosenDevice
from ..measure.compile import WITHOUT_LINE_INFO
from .evaluate import NO_DEVICE, Reply, Request, serve

MOST_STARTS = 3
"""Failures in a row to start a worker on a GPU: it counts as gone then."""


_Waiting = tuple[Request, Reply, Future[Reply]]
"""What is asked, what its compilation replied, and who waits."""


class DeviceGoneError(RuntimeError):
    """No GPU is left to time choices on."""


class Timing(Executor):
    """Compiles through another executor, then times.

    A GPU takes the choices of the problem that it is at before those of others, whose inputs it might have to draw. Its
    worker starts, and makes the first problem's inputs, while the first choices still compile.
    """

    def __init__(self, compiling: Executor, chosen: Sequence[ChosenDevice], seed: int) -> None:
        self._compiling, self._seed = compiling, seed
        self._cache_bytes = max(device.last_level_cache_bytes for device in chosen)
        self._waiting: list[_Waiting] = []
        self._changed = threading.Condition()
        self._closed = False
        self._busy = 0
        self._gone = ""
        self._threads = [threading.Thread(target=self._time_all, args=(device,), daemon=True) for device in chosen]
        for thread in self._threads:
            thread.start()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """`fn(request)` compiles; its reply with that of `measure_choice` is the result.

        DeviceGoneError where no GPU is left.
        """
        (request,) = args
        if self._gone:
            raise DeviceGoneError(self._gone)
        timed: Future[Reply] = Future()
        compiled = self._compiling.submit(fn, request, **kwargs)
        timed.add_done_callback(lambda done: done.cancelled() and compiled.cancel())
        compiled.add_done_callback(lambda done: self._compiled(done, request, timed))
        return timed

    def time(self, request: Request) -> Future[Reply]:
        """Time a choice that was compiled before."""
        return self._enqueue(request, {}, Future())

    def prepare(self, request: Request) -> None:
        """Have inputs made of the request's problem, ahead of its first choice."""
        self._enqueue(request | {"op": "prepare_choices"}, {}, Future())

    def spare(self) -> int:
        """GPUs that have nothing to do now."""
        with self._changed:
            return max(0, len(self._threads) - self._busy - len(self._waiting)) if not self._gone else 0

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the threads; whoever still waits hears of it. Their workers end with the others'."""
        with self._changed:
            self._closed = True
            self._cancel_waiting()
            self._changed.notify_all()
        if wait:
            for thread in self._threads:
                thread.join()

    def _compiled(self, done: Future[Reply], request: Request, timed: Future[Reply]) -> None:
        if done.cancelled():
            timed.cancel()
        elif timed.cancelled():
            return
        elif (error := done.exception()) is not None:
            timed.set_exception(error)
        elif done.result()["status"] != "compiled":
            timed.set_result(done.result())
        else:
            self._enqueue(request, done.result(), timed)

    def _enqueue(self, request: Request, compiled: Reply, timed: Future[Reply]) -> Future[Reply]:
        with self._changed:
            if self._closed:
                timed.cancel()
            elif self._gone:
                timed.set_exception(DeviceGoneError(self._gone))
            else:
                self._waiting.append((request, compiled, timed))
                self._changed.notify()
        return timed

    def _time_all(self, device: ChosenDevice) -> None:
        problem = None
        while (taken := self._take(problem)) is not None:
            request, compiled, timed = taken
            problem = request["problem"]
            try:
                timed.set_result(compiled | self._timed(request, device))
            except DeviceGoneError as error:
                timed.set_exception(error)
                self._leave(str(error))
                return
            except Exception as error:  # noqa: BLE001 - told to whoever waits
                timed.set_exception(error)
            with self._changed:
                self._busy -= 1

    def _timed(self, request: Request, device: ChosenDevice) -> Reply:
        """DeviceGoneError where no worker can have the device: no choice is to blame."""
        began = time.monotonic()
        more: Request = {"cache_bytes": self._cache_bytes, "seed": self._seed}
        if request["op"] == "compile_choice":
            more["op"] = "measure_choice"
        for _ in range(MOST_STARTS):
            reply = serve(request | more, WITHOUT_LINE_INFO, device)
            if reply.get("reason") != NO_DEVICE or self._closed:
                return reply | {"device_s": round(time.monotonic() - began, 3)}
        raise DeviceGoneError(reply["sentence"])

    def _leave(self, sentence: str) -> None:
        """This thread's GPU is gone; where it was the last one, so is everything that waits."""
        with self._changed:
            self._threads.remove(threading.current_thread())
            self._busy -= 1
            if not self._threads:
                self._gone = sentence
                for _, _, timed in self._waiting:
                    timed.set_exception(DeviceGoneError(sentence))
                self._waiting.clear()

    def _take(self, problem: str | None) -> _Waiting | None:
        """The next choice, of `problem` if there is one; None once all is closed."""
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if self._closed:
                    return None
                same = (n for n, waiting in enumerate(self._waiting) if waiting[0]["problem"] == problem)
                taken = self._waiting.pop(next(same, 0))
                if taken[2].set_running_or_notify_cancel():
                    self._busy += 1
                    return taken

    def _cancel_waiting(self) -> None:
        for _, _, timed in self._waiting:
            timed.cancel()
        self._waiting.clear()
