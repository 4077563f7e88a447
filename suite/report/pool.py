"""What several runs on one device measured together: a row of figures for every kernel and problem.

A kernel whose source or version changed between the runs keeps its newest measurements only: an interval over two
different kernels would describe neither. What that leaves out is counted in `Pool.measurements_left_out`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from statistics import fmean, median
from typing import Any

from ..judge.evidence import interval, launch_score
from ..record.scores import BASE_PREFIX
from .labels import short_labels
from .roofs import Roof, least_bytes, measured_roof, sheet_roof

ORIGINS = ("hand", "generated", "vendor", "reference")
"""In the order of a reader's interest."""
OURS = ("hand", "generated")
_RIVAL_ORIGINS = ("vendor", "reference")

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Speedup:
    """How much faster a kernel is than the best vendor kernel in the same launches."""

    factor: float
    low: float
    """Lower end of the 95% interval; 0 while the evidence does not bound it."""
    high: float
    """Upper end; infinite while the evidence does not bound it."""
    launches: int


@dataclass(frozen=True)
class Row:
    """One kernel on one problem, over all launches that measured it. What is unknown is None."""

    kernel: str
    origin: str
    problem: str
    launches: int
    median_us: float
    """Median over launches of each launch's median over blocks."""
    rival: str | None
    """The fastest vendor kernel of the problem, or the reference where no vendor kernel ran."""
    speedup: Speedup | None
    """None for the rival itself and where no launch holds both."""
    tflops: float | None
    gb_per_s: float | None
    of_sheet: float | None
    """Share of the roofline by the data sheet: least possible time over measured time."""
    of_measured: float | None
    """Share of the roofline by the ceilings measured in the same runs."""
    timers: tuple[str, ...]
    host_us: float | None
    plan_us: float | None
    graph_safe: bool | None


@dataclass
class _Samples:
    """What was recorded of one kernel on one problem, by launch."""

    times_us: dict[str, list[float]] = field(default_factory=dict)
    host_us: list[float] = field(default_factory=list)
    plan_us: list[float] = field(default_factory=list)
    graph_safe: list[bool] = field(default_factory=list)
    timers: dict[str, None] = field(default_factory=dict)

    @property
    def median_us(self) -> float:
        return median(median(times) for times in self.times_us.values())


class Pool:
    """Runs of one device, oldest first. Give each run once; a repeated `run_id` counts once."""

    def __init__(self, runs: Iterable[Record]) -> None:
        self.runs = sorted({run["run_id"]: run for run in runs}.values(), key=lambda run: str(run["started_utc"]))
        if not self.runs:
            raise ValueError("A report needs at least one run, and none was given.")
        self.device: Record = self.runs[-1]["device"]
        self.problems: dict[str, Record] = {}
        self.kernels: dict[str, Record] = {}
        self.ceilings: dict[str, float] = {}
        for run in self.runs:
            # What a run knew of a problem that it did not measure is only its name.
            self.problems.update({p: facts for p, facts in run["problems"].items()
                                  if p not in self.problems or facts["light_speed_us"] is not None})  # fmt: skip
            # Of a kernel that it did not measure, a run knows its source at that time: no figure comes from it.
            timed = {kernel for launch in run["launches"] for m in launch["measurements"] for kernel in m["times_us"]}
            self.kernels.update(
                {k: facts for k, facts in run["kernels"].items() if k in timed or k not in self.kernels}
            )
            self.ceilings.update(run["ceilings"])
        self.labels = short_labels(self.problems)
        self.measurements_left_out = 0
        self._samples: dict[tuple[str, str], _Samples] = {}
        for run in self.runs:
            for launch in run["launches"]:
                for measurement in launch["measurements"]:
                    self._add(run, launch["launch"], measurement)

    @property
    def num_launches(self) -> int:
        return sum(len(run["launches"]) for run in self.runs)

    @cached_property
    def wrong(self) -> set[tuple[str, str]]:
        """(kernel, problem) whose newest run saw a wrong output: no figure of theirs is shown."""
        newest: dict[tuple[str, str], bool] = {}
        for run in self.runs:
            incorrect = {_pair(check) for check in run["checks"] if check["status"] == "incorrect"}
            newest.update({pair: pair in incorrect for pair in map(_pair, run["checks"])})
        return {pair for pair, is_wrong in newest.items() if is_wrong}

    @cached_property
    def rivals(self) -> dict[str, str]:
        """For every problem its fastest vendor kernel, or the reference where no vendor kernel ran."""
        candidates = {
            pair: (_RIVAL_ORIGINS.index(self.origin(pair[0])), samples.median_us)
            for pair, samples in self._samples.items()
            if pair not in self.wrong and not is_base(pair[0]) and self.origin(pair[0]) in _RIVAL_ORIGINS
        }
        slowest_first = sorted(candidates, key=lambda pair: candidates[pair], reverse=True)
        return {problem: kernel for kernel, problem in slowest_first}

    @cached_property
    def rows(self) -> list[Row]:
        """By problem, fastest first."""
        measured = [pair for pair in self._samples if pair not in self.wrong]
        rows = [self._row(problem, kernel) for kernel, problem in measured]
        return sorted(rows, key=lambda row: (row.problem, row.median_us))

    def rows_of(self, problem: str) -> list[Row]:
        return [row for row in self.rows if row.problem == problem]

    def label(self, problem: str) -> str:
        """Short label; a problem that only a verdict names stands for itself."""
        return self.labels.get(problem, problem)

    def origin(self, kernel: str) -> str:
        known = self.kernels.get(kernel) or self.kernels.get(kernel.removeprefix(BASE_PREFIX)) or {}
        return str(known.get("origin", "unknown"))

    def verdicts(self) -> list[Record]:
        """The newest verdict on every pair and problem."""
        newest = {(v["kernel"], v["rival"], v["problem"], v["kind"]): v for run in self.runs for v in run["verdicts"]}
        return list(newest.values())

    def roofs(self, compute_dtype: str | None) -> dict[str, Roof]:
        """Rooflines that are known for a dtype: `sheet`, `measured`."""
        if compute_dtype is None:
            return {}
        found = {
            "sheet": sheet_roof(self.device, compute_dtype),
            "measured": measured_roof(self.ceilings, compute_dtype),
        }
        return {name: roof for name, roof in found.items() if roof is not None}

    def least_bytes(self, problem: str) -> int | None:
        return least_bytes(self.problems[problem], self.device)

    def _add(self, run: Record, launch: str, measurement: Record) -> None:
        for kernel, times_us in measurement["times_us"].items():
            if _identity(run["kernels"].get(kernel)) != _identity(self.kernels.get(kernel)):
                self.measurements_left_out += 1
                continue
            samples = self._samples.setdefault((kernel, measurement["problem"]), _Samples())
            samples.times_us[launch] = times_us
            samples.timers[measurement["timer"]] = None
            for name in ("host_us", "plan_us", "graph_safe"):
                if (value := measurement.get(name, {}).get(kernel)) is not None:
                    getattr(samples, name).append(value)

    def _speedup(self, kernel: str, rival: str, problem: str) -> Speedup | None:
        own, other = self._samples[kernel, problem].times_us, self._samples[rival, problem].times_us
        scores = [launch_score(own[launch], other[launch]) for launch in own if launch in other]
        if kernel == rival or not scores:
            return None
        low, high = interval(scores) if len(scores) > 1 else (-math.inf, math.inf)
        return Speedup(math.exp(fmean(scores)), _exp(low), _exp(high), len(scores))

    def _row(self, problem: str, kernel: str) -> Row:
        samples, facts, rival = self._samples[kernel, problem], self.problems[problem], self.rivals.get(problem)
        seconds = samples.median_us * 1e-6
        flops, num_bytes = facts["flops"], self.least_bytes(problem)
        measured = self.roofs(facts["compute_dtype"]).get("measured")
        light_speed_us = facts["light_speed_us"]
        return Row(
            kernel=kernel,
            origin=self.origin(kernel),
            problem=problem,
            launches=len(samples.times_us),
            median_us=samples.median_us,
            rival=rival,
            speedup=self._speedup(kernel, rival, problem) if rival else None,
            tflops=None if flops is None else flops / seconds / 1e12,
            gb_per_s=None if num_bytes is None else num_bytes / seconds / 1e9,
            of_sheet=light_speed_us / samples.median_us if light_speed_us else None,
            of_measured=_share(measured, flops, num_bytes, seconds),
            timers=tuple(samples.timers),
            host_us=_median_or_none(samples.host_us),
            plan_us=_median_or_none(samples.plan_us),
            graph_safe=all(samples.graph_safe) if samples.graph_safe else None,
        )


def pools(runs: Sequence[Record]) -> list[Pool]:
    """One pool a device, sorted by device key."""
    keys = sorted({str(run["device"]["key"]) for run in runs})
    return [Pool([run for run in runs if run["device"]["key"] == key]) for key in keys]


def best_of(rows: Sequence[Row], origins: Sequence[str]) -> Row | None:
    """The fastest row of these origins, base kernels left aside."""
    return min(
        (row for row in rows if row.origin in origins and not is_base(row.kernel)),
        key=lambda row: row.median_us,
        default=None,
    )


def rival_words(pool: Pool) -> str:
    """What the rivals are called in a sentence about all of them."""
    all_vendors = all(pool.origin(rival) == "vendor" for rival in pool.rivals.values())
    return "the best vendor kernel" if all_vendors else "the best vendor kernel, or the reference without one"


def is_base(kernel: str) -> bool:
    """Whether an id names a kernel of the commit that a run compared itself with."""
    return kernel.startswith(BASE_PREFIX)


def _pair(record: Record) -> tuple[str, str]:
    return record["kernel"], record["problem"]


def _identity(kernel: Record | None) -> tuple[Any, ...]:
    return (kernel.get("source_sha256"), kernel.get("version")) if kernel else ()


def _share(roof: Roof | None, flops: float | None, num_bytes: float | None, seconds: float) -> float | None:
    if roof is None or flops is None or num_bytes is None:
        return None
    return roof.least_seconds(flops, num_bytes) / seconds


def _exp(log: float) -> float:
    """exp, where beyond e^100 an end of an interval counts as open."""
    return math.exp(log) if log < 100 else math.inf


def _median_or_none(values: Sequence[float]) -> float | None:
    return median(values) if values else None
