"""A timer for pytest-benchmark that shows stored device seconds."""

from __future__ import annotations


class ReplayClock:
    """A clock that moves only when told to, by the next stored sample.

    Only for `benchmark.pedantic`, which reads it before and after each round; `benchmark(fn)` would calibrate against
    a clock that stands still, and never end.
    """

    def __init__(self) -> None:
        self._now_s = 0.0
        self._samples_s: list[float] = []

    def __call__(self) -> float:
        """The present, in seconds."""
        return self._now_s

    def load(self, times_us: list[float]) -> int:
        """Take samples to replay; returns how many rounds they are."""
        self._samples_s = [t / 1e6 for t in reversed(times_us)]
        return len(times_us)

    def advance(self) -> None:
        """One round: move by the next sample."""
        self._now_s += self._samples_s.pop()
