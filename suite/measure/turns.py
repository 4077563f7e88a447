"""Whose turn it is on a device that several crews share: many check at once, or one times alone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

ALONE = frozenset({"measure", "canary", "ceilings"})
"""Requests that are timed on the device."""


class Turns:
    """A lock that requests which are not timed share. Who waits to be alone comes before those who come later."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._sharing = 0
        self._waiting = 0
        self._is_alone = False

    @contextmanager
    def of(self, op: str) -> Iterator[None]:
        """Wait for the turn of a request, and hold it."""
        with self._alone() if op in ALONE else self._shared():
            yield

    @contextmanager
    def _shared(self) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._is_alone and not self._waiting)
            self._sharing += 1
        try:
            yield
        finally:
            with self._changed:
                self._sharing -= 1
                self._changed.notify_all()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with self._changed:
            self._waiting += 1
            try:
                self._changed.wait_for(lambda: not self._is_alone and not self._sharing)
            finally:
                self._waiting -= 1
            self._is_alone = True
        try:
            yield
        finally:
            with self._changed:
                self._is_alone = False
                self._changed.notify_all()
