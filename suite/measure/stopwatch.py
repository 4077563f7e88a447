"""Where the seconds of a run go, in the parent and in its workers."""

from __future__ import annotations

import time


class Stopwatch:
    """Adds the wall-clock seconds of a block to a phase: `with Stopwatch(phases_s, "check"): ...`."""

    def __init__(self, phases_s: dict[str, float], name: str) -> None:
        self._phases_s, self._name = phases_s, name

    def __enter__(self) -> None:
        self._start = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self._phases_s[self._name] = self._phases_s.get(self._name, 0.0) + time.monotonic() - self._start
