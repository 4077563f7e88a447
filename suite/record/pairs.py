"""What measured runs say of one pair of kernels: whether they can claim anything, and the claim."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .baseline import Claim, Pair
from .refusals import MIN_LAUNCHES, MIN_RUNS
from .schema import Document, now_utc, parse_utc
from .scores import Measured

MAX_FACTOR = 1e6
"""Beyond this, or below its inverse, something was not measured."""
MAX_GAP = math.log(1.10)
"""Most that the bound may lie below the measured factor: a claim much weaker than its kernel guards nothing."""
LEAST_FACTOR = 0.8
"""A claim says that a kernel is faster than its rival, or about as fast. Nobody relies on one that takes over a quarter
longer, and its claim would only turn red where the rival, often a kernel of ours, is improved."""
FACTOR_DIGITS = 5
"""Significant digits of a factor, rounded down so that it stays a bound."""

LowerBound = Callable[[list[float]], "float | None"]
"""Launch scores -> lower end of the two-sided 95% interval of ln(t_rival / t_kernel), None where undecidable."""
Doubt = Callable[[list[float], str, float], "str | None"]
"""(Launch scores, device kind, shorter time of the pair in us) -> why a claim on them would guard nothing, or None."""


@dataclass(frozen=True)
class Evidence:
    """Everything that deciding one claim needs."""

    runs: Sequence[Document]
    """Oldest first."""
    measured: Measured
    git_sha: str
    owner: str
    reason: str | None
    lower_bound: LowerBound
    doubt: Doubt

    @property
    def device(self) -> Document:
        device: Document = self.runs[-1]["device"]
        return device


def refusal_of(evidence: Evidence, pair: Pair) -> str | None:
    """What speaks against claiming this pair, as a sentence."""
    measured, (problem, kernel, rival) = evidence.measured, pair
    scores = measured.scores(kernel, rival, problem)
    # A kernel that is wrong anywhere is wrong; a rival only has to be right where it is beaten.
    objection = measured.objection(kernel) or measured.objection(kernel, problem) or measured.objection(rival, problem)
    if objection:
        return f"{objection}. Correct it and measure again."
    for one in (kernel, rival):
        entries = {
            (run["kernels"][one]["source_sha256"], run["kernels"][one]["version"]) for run in _with(evidence, one)
        }
        if len(entries) > 1:
            return f"{one} differs between the runs (source or version). Promote runs of one version."
    num_runs = len({launch.rpartition("/")[0] for launch in scores})
    if len(scores) < MIN_LAUNCHES or num_runs < MIN_RUNS:
        have = f"{len(scores)} launches in {num_runs} runs measured both"
        return f"Too little evidence: {have}, {MIN_LAUNCHES} in {MIN_RUNS} are needed. Measure again."
    light_speed_us = evidence.runs[-1]["problems"].get(problem, {}).get("light_speed_us")
    if light_speed_us and _shorter_us(evidence, pair) < light_speed_us:
        return f"A time below {light_speed_us:.3g} us, this device's speed of light, is an error of measurement."
    return _too_wide(evidence.lower_bound(list(scores.values())), scores)


def doubt_of(evidence: Evidence, pair: Pair) -> str | None:
    """Why a claim of this pair would guard nothing."""
    problem, kernel, rival = pair
    scores = list(evidence.measured.scores(kernel, rival, problem).values())
    return evidence.doubt(scores, evidence.runs[-1]["device"]["kind"], _shorter_us(evidence, pair))


def too_slow(evidence: Evidence, pair: Pair) -> str | None:
    """Why nothing new is claimed of a kernel far behind its rival, however many launches are measured."""
    problem, kernel, rival = pair
    scores = evidence.measured.scores(kernel, rival, problem).values()
    factor = math.exp(sum(scores) / len(scores))
    return f"At {factor:.4g}x it is too slow to claim anything." if factor < LEAST_FACTOR else None


def is_refuted(evidence: Evidence, claim: Claim) -> bool:
    """Whether the whole interval lies below a claim.

    A reason then lowers it although the new bound is a loose one: what is known to be false guards less, and would make
    every gate red until more launches are measured.
    """
    scores = evidence.measured.scores(claim.kernel, claim.rival, claim.problem).values()
    least = evidence.lower_bound([-score for score in scores])
    return least is not None and -least < math.log(claim.factor)


def _shorter_us(evidence: Evidence, pair: Pair) -> float:
    problem, kernel, rival = pair
    return min(evidence.measured.time_us(one, problem) for one in (kernel, rival))


def _too_wide(bound: float | None, scores: dict[str, float]) -> str | None:
    if bound is None or not math.isfinite(bound):
        return f"{len(scores)} launches leave the factor undecided. Measure again and promote all runs together."
    if abs(bound) > math.log(MAX_FACTOR):
        return f"A factor beyond {MAX_FACTOR:g} is an error of measurement. Look at the samples of both kernels."
    mean = sum(scores.values()) / len(scores)
    if mean - bound > MAX_GAP:
        factors = f"{math.exp(mean):.4g}x was measured, but only {math.exp(bound):.4g}x is certain"
        return f"Too wide an interval: {factors}. Measure more launches, on a quieter machine."
    return None


def _with(evidence: Evidence, kernel: str) -> list[Document]:
    return [run for run in evidence.runs if kernel in run["kernels"]]


def propose(evidence: Evidence, pair: Pair) -> Claim:
    """The claim of a pair that nothing speaks against."""
    measured, (problem, kernel, rival) = evidence.measured, pair
    scores = measured.scores(kernel, rival, problem)
    bound = evidence.lower_bound(list(scores.values()))
    assert bound is not None, "`refusal_of` lets no undecided pair pass"
    names = {launch.rpartition("/")[0] for launch in scores}
    runs = [run for run in evidence.runs if run["run_id"] in names]
    environment = runs[-1]["environment"]
    return Claim(
        device=evidence.device["key"],
        kernel=kernel,
        rival=rival,
        problem=problem,
        problem_fields=runs[-1]["problems"][problem]["fields"],
        factor=round_down(math.exp(bound)),
        owner=evidence.owner,
        made_utc=now_utc(),
        proven_utc=max((run["finished_utc"] for run in runs), key=parse_utc),
        git_sha=evidence.git_sha,
        kernel_sha256=measured.entry(kernel)["source_sha256"],
        rival_version=measured.entry(rival)["version"],
        gpu_uuids=tuple(sorted({run["device"]["uuid"] for run in runs if run["device"]["uuid"]})),
        runs=tuple(sorted(names)),
        evidence={
            "scores": [{"launch": launch, "score": round(score, 7)} for launch, score in scores.items()],
            "kernel_us": _rounded(measured.time_us(kernel, problem)),
            "rival_us": _rounded(measured.time_us(rival, problem)),
            "environment": {name: environment.get(name) for name in ("torch", "triton", "driver")},
        },
    )


def round_down(factor: float) -> float:
    """To FACTOR_DIGITS."""
    digits = FACTOR_DIGITS - 1 - math.floor(math.log10(factor))
    return math.floor(factor * 10.0**digits) / 10.0**digits


def _rounded(value: Any) -> float:
    return float(f"{value:.6g}")
