"""Signals that end a run from outside: a cancelled CI job sends SIGTERM, a terminal that is closed SIGHUP."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

ENDING = (signal.SIGTERM, signal.SIGHUP)


def end_as_by_ctrl_c() -> None:
    """Have them raise KeyboardInterrupt: what was measured is recorded, and all workers are ended.

    Not where somebody set them before: `nohup` has SIGHUP ignored. Only the main thread may set them.
    """
    for number in ENDING if threading.current_thread() is threading.main_thread() else ():
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _interrupt)


@contextmanager
def held_off() -> Iterator[None]:
    """While the end of a run is recorded, which takes a moment: the first of these signals, or Ctrl-C, changes nothing.

    A second one does: somebody is in a hurry.
    """
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if came:
            _interrupt(number, frame)
        came.append(number)

    handled = [number for number in (signal.SIGINT, *ENDING) if callable(signal.getsignal(number))]
    is_main = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, note) for number in handled} if is_main else {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt(signal.Signals(number).name)
