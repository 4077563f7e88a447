"""From a run's record to verdicts: which pairs are asked what, and what their launches answer.

Pure: reads the record (run.json, or the journal so far), so that a scheduler can ask after each launch what is still
undecided, and a report can judge again without a GPU.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from ..record.scores import BASE_PREFIX, paired_times
from .bands import Bands, bands_for
from .drift import drift, mark_stale, rival_improved
from .evidence import launch_score
from .gate import judge_base, judge_claim, judge_unclaimed
from .verdict import Reason, Status, Verdict, is_decided

MIN_FRESH_LAUNCHES = 5
"""Launches of a run itself before stored ones may help to decide a claim."""
OUTRUN = 2.0
"""From one launch to another no ratio of two kernels was seen to move by a tenth of that."""
Run = Mapping[str, Any]


@dataclass(frozen=True)
class Comparison:
    """One question to a run: a claim, the kernel against its base, or how fast an unclaimed kernel is."""

    kind: str
    """`claim`, `base` or `unclaimed`."""
    kernel: str
    problem: str
    rival: str | None = None
    """None for an unclaimed kernel: the fastest vendor kernel that was measured, or else the reference."""
    factor: float | None = None
    proven_utc: str | None = None
    kernel_sha256: str | None = None
    """The kernel's source when the claim was made; where it is another now, inconclusive is red."""
    stored_us: tuple[float, float] | None = None
    """Kernel and rival when the claim was made."""
    stored_environment: tuple[tuple[str, str], ...] = ()
    unchanged: bool = False
    """For a base: both compile to the same code, so nothing needs to be measured."""

    @property
    def id(self) -> str:
        """`<kernel> > <rival> @ <problem>`."""
        return f"{self.kernel} > {self.rival or '?'} @ {self.problem}"


@dataclass(frozen=True)
class Ruling:
    """A comparison with its verdict."""

    comparison: Comparison
    rival: str | None
    verdict: Verdict
    red: bool
    """Whether the run fails on it."""
    decided: bool
    """Whether more launches cannot change it."""

    def to_json(self) -> dict[str, Any]:
        """As run.json holds it."""
        names = {"kernel": self.comparison.kernel, "rival": self.rival, "problem": self.comparison.problem}
        return names | {"kind": self.comparison.kind} | self.verdict.to_json()


@dataclass(frozen=True)
class Court:
    """What all rulings of a run share."""

    device_kind: str
    num_claims: int
    """All claims of the device, selected or not."""
    num_bases: int
    now: datetime
    strict: bool = False
    stored: Mapping[tuple[str, str, str], Sequence[float]] | None = None
    """(kernel, rival, problem) -> launch scores of earlier runs of the same code."""

    def rule(self, comparison: Comparison, run: Run) -> Ruling:
        """The verdict on one comparison as of now."""
        rival = comparison.rival or fastest_rival(run, comparison.kernel, comparison.problem)
        verdict = self._verdict(comparison, rival, run)
        decided = is_decided(verdict) and not self._wants_fresh(comparison, rival, run)
        if comparison.kind == "unclaimed" and rival is not None:
            decided |= is_outrun(run, rival, comparison.problem)  # who is no more asked beside others
        return Ruling(comparison, rival, verdict, self._is_red(comparison, verdict, run), decided)

    def _wants_fresh(self, comparison: Comparison, rival: str | None, run: Run) -> bool:
        """Whether stored evidence alone has decided: a run must see for itself what the device does today."""
        stored = (self.stored or {}).get((comparison.kernel, str(rival), comparison.problem))
        if not stored or rival is None or kernel_trouble(run, comparison.kernel, comparison.problem):
            return False
        return len(scores(run, comparison.kernel, rival, comparison.problem)) < MIN_FRESH_LAUNCHES

    def _verdict(self, comparison: Comparison, rival: str | None, run: Run) -> Verdict:
        if comparison.unchanged:
            return Verdict(
                Status.HOLDS, Reason.UNCHANGED, f"{comparison.kernel} compiles to the same code as at the base."
            )
        trouble = kernel_trouble(run, comparison.kernel, comparison.problem)
        if comparison.kind == "base" and rival and (trouble is None or trouble.status is Status.SKIPPED):
            at_base = kernel_trouble(run, rival, comparison.problem)
            if at_base:
                sentence = f"The base gave no times to compare with, so nothing can be slower: {at_base.sentence}"
                return Verdict(Status.SKIPPED, Reason.NOT_MEASURED, sentence)
        if trouble:
            return trouble
        if rival is None:
            sentence = f"{comparison.kernel} was not timed beside any vendor's kernel or the reference."
            return Verdict(Status.UNCLAIMED, Reason.TOO_FEW_LAUNCHES, sentence)
        rival_trouble = kernel_trouble(run, rival, comparison.problem)
        if rival_trouble:
            sentence = f"The rival {rival} gave no times to compare with: {rival_trouble.sentence}"
            return Verdict(Status.INCONCLUSIVE, Reason.NOT_MEASURED, sentence, factor_claimed=comparison.factor)
        return self._measured_verdict(comparison, rival, run)

    def _measured_verdict(self, comparison: Comparison, rival: str, run: Run) -> Verdict:
        kernel, problem = comparison.kernel, comparison.problem
        fresh = scores(run, kernel, rival, problem)
        stored = list((self.stored or {}).get((kernel, rival, problem), ()))
        times_us = median_us(run, kernel, problem), median_us(run, rival, problem)
        known_us = [t for t in comparison.stored_us or times_us if t is not None]
        bands = bands_for(self.device_kind, min(known_us) if known_us else 1e3)
        bands = replace(bands, k_max=bands.k_max + len(stored))
        names = {"kernel": kernel, "rival": rival}
        if comparison.kind == "base":
            return judge_base([*stored, *fresh], max(1, self.num_bases), bands, **names)
        if comparison.factor is None:
            return judge_unclaimed(fresh, bands, **names)
        verdict = judge_claim([*stored, *fresh], comparison.factor, max(1, self.num_claims), bands, **names)
        verdict = self._explain(comparison, verdict, times_us, run, bands)
        return mark_stale(verdict, comparison.proven_utc, self.now) if comparison.proven_utc else verdict

    def _explain(
        self,
        comparison: Comparison,
        verdict: Verdict,
        times_us: tuple[float | None, float | None],
        run: Run,
        bands: Bands,
    ) -> Verdict:
        if comparison.stored_us is None or times_us[0] is None or times_us[1] is None:
            return verdict
        stored, now = dict(comparison.stored_environment), {k: str(v) for k, v in run["environment"].items()}
        return rival_improved(verdict, drift(*comparison.stored_us, times_us[0], times_us[1], stored, now), bands)

    def _is_red(self, comparison: Comparison, verdict: Verdict, run: Run) -> bool:
        """Whether the run fails on it. A claim that could not be judged at all is red: unknown is not pass.

        A library's wrong kernel is not: it is never a rival, and where a claim rests on it, the claim is red.
        """
        if comparison.kind == "unclaimed" and run["kernels"].get(comparison.kernel, {}).get("origin") == "vendor":
            return False
        if verdict.status in (Status.REGRESSED, Status.INCORRECT, Status.FAILED):
            return True
        if comparison.kind == "unclaimed":
            return False
        if comparison.kind == "base" and verdict.status is Status.SKIPPED and verdict.reason is Reason.NOT_MEASURED:
            return False
        if verdict.status is Status.SKIPPED or verdict.reason is Reason.NOT_MEASURED:
            return True
        if verdict.status is not Status.INCONCLUSIVE:
            return False
        if not verdict.launches:
            return True
        now = run["kernels"].get(comparison.kernel, {}).get("source_sha256")
        code_changed = comparison.kind == "base" or (
            comparison.kernel_sha256 is not None and now != comparison.kernel_sha256
        )
        return self.strict or code_changed


def kernel_trouble(run: Run, kernel: str, problem: str) -> Verdict | None:
    """A verdict on a kernel that was found wrong, failed or cannot run this problem; None where nothing is known.

    Of a kernel of ours that is wrong on a random problem, no time counts anywhere: it may know the sweep's answers.
    """
    is_library = run["kernels"].get(kernel, {}).get("origin") == "vendor"
    for check in (c for c in run["checks"] if c["kernel"] == kernel and c["status"] != "correct"):
        if check["problem"] == problem:
            return _trouble(check["status"], check["reason"], f"{kernel}: {check['sentence']}")
        if check["stage"] == "property" and check["status"] != "skipped" and not is_library:
            sentence = f"{kernel}, on the random problem {check['problem']}: {check['sentence']}"
            return _trouble(check["status"], check["reason"], sentence)
    for launch in run["launches"]:
        for failure in launch["failures"]:
            if failure["kernel"] == kernel and failure["problem"] == problem:
                status = STATUS_OF_FAILURE.get(Reason(failure["reason"]), Status.FAILED)
                return _trouble(status, failure["reason"], f"{kernel}: {failure['sentence']}")
    return None


WRONG = (
    Reason.WRONG_OUTPUT, Reason.WRONG_FORM, Reason.INPUTS_CHANGED, Reason.BELOW_LIGHT_SPEED, Reason.OUTSIDE_INTERVAL,
    Reason.TAMPERED, Reason.TIMER_CONTRADICTED,
)  # fmt: skip
STATUS_OF_FAILURE = dict.fromkeys(WRONG, Status.INCORRECT) | {Reason.NOT_TOGETHER: Status.INCONCLUSIVE}


def _trouble(status: str, reason: str, sentence: str) -> Verdict:
    return Verdict(Status(status), Reason(reason), sentence)


def scores(run: Run, kernel: str, rival: str, problem: str) -> list[float]:
    """One score a launch that timed both: the median over its blocks of ln(t_rival / t_kernel)."""
    launches = paired_times(run["launches"], (kernel, rival), problem).values()
    return [launch_score(times[kernel], times[rival]) for times in launches]


def median_us(run: Run, kernel: str, problem: str) -> float | None:
    """Median over launches of a kernel's median time, or None where it was not timed."""
    launches = paired_times(run["launches"], (kernel,), problem).values()
    return statistics.median(statistics.median(times[kernel]) for times in launches) if launches else None


def fastest_rival(run: Run, kernel: str, problem: str) -> str | None:
    """The fastest measured vendor kernel other than `kernel`, or else the reference; None where neither was timed.

    Not one that was found wrong or failed, though an earlier launch may hold times of it.
    """
    for origin in ("vendor", "reference"):
        timed: list[tuple[float, str]] = [
            (time_us, other)
            for other, entry in run["kernels"].items()
            if entry["origin"] == origin and other != kernel and not other.startswith(BASE_PREFIX)
            for time_us in [median_us(run, other, problem)]
            if time_us is not None
        ]
        for _, other in sorted(timed):
            if kernel_trouble(run, other, problem) is None:
                return other
    return None


def is_outrun(run: Run, kernel: str, problem: str) -> bool:
    """Whether a vendor's kernel or the reference is so far behind a vendor's that it will be nobody's best rival."""
    rival, own_us = fastest_rival(run, kernel, problem), median_us(run, kernel, problem)
    if rival is None or own_us is None or run["kernels"][rival]["origin"] != "vendor":
        return False
    return own_us > OUTRUN * (median_us(run, rival, problem) or math.inf)
