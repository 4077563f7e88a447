"""Signals that end a run from outside: Ctrl-C, SIGTERM from a CI job that is cancelled, SIGHUP from a closed terminal.

The first raises KeyboardInterrupt: what was measured is recorded, and all workers are ended. That takes a moment, in
which a second one changes nothing: it would cost the record. The third is taken at its word.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
UNTOUCHED = (signal.SIG_DFL, signal.default_int_handler)


@dataclass
class _Interrupts:
    """Of this process."""

    came: int = 0
    is_ending: bool = False

    def handle(self, number: int, frame: FrameType | None) -> None:
        self.came += 1
        if self.came > 2 or (self.came == 1 and not self.is_ending):
            raise KeyboardInterrupt(signal.Signals(number).name)


_INTERRUPTS = _Interrupts()


def end_in_order() -> None:
    """Handle them so, where nobody else does: `nohup` has SIGHUP ignored. Only the main thread may."""
    for number in SIGNALS if threading.current_thread() is threading.main_thread() else ():
        if signal.getsignal(number) in UNTOUCHED:
            signal.signal(number, _INTERRUPTS.handle)


@contextmanager
def held_off() -> Iterator[None]:
    """While the end of a run is recorded: as if one had come before."""
    _INTERRUPTS.is_ending = True
    try:
        yield
    finally:
        _INTERRUPTS.is_ending = False
