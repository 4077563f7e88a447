"""What several runs measured, by pair: launch scores, times, and what speaks against a kernel."""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Iterable, Iterator, Sequence

from .schema import Document

BASE_PREFIX = "base:"
"""Marks kernels of another commit, which are never claimed nor rivals in a claim."""

Samples = dict[str, list[float]]
"""Kernel -> one time in us a block."""


def paired_times(launches: Iterable[Document], kernels: Collection[str], problem: str) -> dict[str, Samples]:
    """Launch -> block times, for every launch that timed all of `kernels` by the timer that did so in most launches.

    What another timer measured is left out: it has another constant offset, and the two must not be pooled.
    """
    by_timer: dict[str, dict[str, Samples]] = {}
    for launch in launches:
        for measurement in launch["measurements"]:
            if measurement["problem"] == problem and all(measurement["times_us"].get(kernel) for kernel in kernels):
                by_timer.setdefault(measurement["timer"], {})[launch["launch"]] = measurement["times_us"]
    return max(by_timer.values(), key=len, default={})


class Measured:
    """The runs' measurements and checks, indexed."""

    def __init__(self, runs: Sequence[Document]) -> None:
        self.runs = runs
        self._launches = [launch for run in runs for launch in run["launches"]]

    @property
    def problems(self) -> list[str]:
        """Everything that was measured."""
        return sorted({m["problem"] for launch in self._launches for m in launch["measurements"]})

    def kernels(self, problem: str, *origins: str) -> list[str]:
        """Kernels of these origins that were measured on `problem`."""
        measurements = (m for launch in self._launches for m in launch["measurements"] if m["problem"] == problem)
        measured = {kernel for measurement in measurements for kernel in measurement["times_us"]}
        own = (kernel for kernel in measured if not kernel.startswith(BASE_PREFIX))
        return sorted(kernel for kernel in own if self.entry(kernel)["origin"] in origins)

    def family(self, family: str) -> list[str]:
        """All kernels of a family that the runs know, measured or not."""
        known = {kernel for run in self.runs for kernel, entry in run["kernels"].items() if entry["family"] == family}
        return sorted(kernel for kernel in known if not kernel.startswith(BASE_PREFIX))

    def entry(self, kernel: str) -> Document:
        """The newest run's facts about a kernel."""
        found: Document = next(run["kernels"][kernel] for run in reversed(self.runs) if kernel in run["kernels"])
        return found

    def scores(self, kernel: str, rival: str, problem: str) -> dict[str, float]:
        """Launch -> median over its blocks of ln(t_rival / t_kernel); launches that measured both."""
        scores = {}
        for launch, times in paired_times(self._launches, (kernel, rival), problem).items():
            ratios = [math.log(r / k) for k, r in zip(times[kernel], times[rival], strict=True)]
            scores[launch] = statistics.median(ratios)
        return scores

    def time_us(self, kernel: str, problem: str) -> float:
        """Median of the launches' medians, in us."""
        launches = paired_times(self._launches, (kernel,), problem).values()
        return statistics.median(statistics.median(times[kernel]) for times in launches)

    def fastest(self, problem: str, origin: str) -> str | None:
        """The fastest kernel of an origin that nothing speaks against on this problem."""
        fit = [kernel for kernel in self.kernels(problem, origin) if not self.objection(kernel, problem)]
        return min(fit, key=lambda kernel: self.time_us(kernel, problem), default=None)

    def objection(self, kernel: str, problem: str | None = None) -> str | None:
        """Why `kernel` is not to be believed, on one problem or (None) anywhere in its family."""
        for run in self.runs:
            for place, what in _faults(run, kernel):
                if problem in (None, place):
                    return f"{kernel} {what} on {place} in run {run['run_id']}"
        return self._unchecked(kernel, problem) if problem else None

    def _unchecked(self, kernel: str, problem: str) -> str | None:
        """Measuring is not enough: each run must have checked what it measured."""
        for run in self.runs:
            correct = any(_is_about(check, kernel, problem) and check["status"] == "correct" for check in run["checks"])
            measured = any(
                measurement["problem"] == problem and kernel in measurement["times_us"]
                for launch in run["launches"]
                for measurement in launch["measurements"]
            )
            if measured and not correct:
                return f"{kernel} was measured on {problem} without a passed check in run {run['run_id']}"
        return None


def _is_about(entry: Document, kernel: str, problem: str) -> bool:
    return bool(entry["kernel"] == kernel and entry["problem"] == problem)


def _faults(run: Document, kernel: str) -> Iterator[tuple[str, str]]:
    """(problem, what happened) for every check that did not pass and every failure."""
    for check in run["checks"]:
        if check["kernel"] == kernel and check["status"] in ("incorrect", "failed"):
            detail = f" ({check['reason']})" if check["reason"] else ""
            yield (
                check["problem"],
                f"is {check['status']}{detail}" if check["status"] == "incorrect" else f"failed{detail}",
            )
    for launch in run["launches"]:
        for failure in launch["failures"]:
            if failure["kernel"] == kernel:
                yield failure["problem"] or "an unknown problem", f"failed ({failure['reason']})"
