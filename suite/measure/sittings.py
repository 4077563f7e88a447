"""Judging side by side: lanes that take group after group, each in a thread, until all is done or Ctrl-C ends it."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol


class Lane(Protocol):
    """What judges one group after the other; entered and left by its thread."""

    def __enter__(self) -> Any:
        """Begin."""

    def __exit__(self, *error: object) -> None:
        """End, with all workers."""

    def judge(self, group: Any) -> Iterable[Any]:
        """What came of each member of a group, as it ends."""

    def stop(self) -> None:
        """From another thread: end what is being judged."""


class Sittings:
    """Lanes at work side by side, each a thread; `told` hears of each result."""

    def __init__(self, lanes: Sequence[Lane], groups: Iterable[Any], told: Callable[[Any], None]) -> None:
        self.lanes, self.told = lanes, told
        self.work: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for group in groups:
            self.work.put(group)
        self.done: list[Any] = []
        self.ended: list[BaseException] = []
        """Why it ended early, the first cause first."""

    def hold(self) -> list[Any]:
        """All that was judged by the end, or by Ctrl-C; raises what a lane raised before that."""
        threads = [threading.Thread(target=self._sit, args=(lane,)) for lane in self.lanes]
        with _cores_shared_by(len(threads)):
            try:
                for thread in threads:
                    thread.start()
                _join(threads)
            except KeyboardInterrupt as interrupt:
                self.ended.append(interrupt)
                for lane in self.lanes:
                    lane.stop()
                _join([thread for thread in threads if thread.ident])
        if self.ended and not isinstance(self.ended[0], KeyboardInterrupt):
            raise self.ended[0]
        return self.done

    def _sit(self, lane: Lane) -> None:
        try:
            with lane:
                while not self.work.empty() and not self.ended:
                    for judged in lane.judge(self.work.get_nowait()):
                        self._report(judged)
        except queue.Empty:
            return
        except BaseException as error:  # noqa: BLE001 - told by the caller's thread
            self.ended.append(error)

    def _report(self, judged: Any) -> None:
        if not self.ended:  # or it was judged while its workers were being ended
            self.done.append(judged)
            self.told(judged)


def _join(threads: Sequence[threading.Thread]) -> None:
    for thread in threads:
        thread.join()


@contextmanager
def _cores_shared_by(jobs: int) -> Iterator[None]:
    """Have the workers of each job use their share of the cores: OpenMP's threads spin while they wait for others."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // jobs))
    try:
        yield
    finally:
        del os.environ["OMP_NUM_THREADS"]
        if before is not None:
            os.environ["OMP_NUM_THREADS"] = before
