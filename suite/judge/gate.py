"""Launch scores in, verdicts out.

The true log-speedup theta of a claim of factor c is *fine* at ln c - d0 and above, *bad* at ln c - d1 and below:

- regressed: mean < ln c - d0 and E(ln c - d0) >= N / alpha, N being all claims of the device, selected or not
- holds: mean > ln c - d1 and E(ln c - d1) >= 1 / beta
- both: regressed. Neither: another launch, up to k_max; then inconclusive
- two separated modes, one bad and one fine: inconclusive. Modes on one side of the bands are no obstacle: whichever
  one the next launch takes, the verdict is the same; the sentence names them

N / alpha bounds the chance that any claim of a run is called regressed while all are fine, however often one looks
(sources: evidence.py). Simulated with N = 50, alpha = beta = 0.05, d0 0.5%, d1 1%, 5 to 24 launches, 20,000 runs: a
loss of 2% at a launch sd of 0.5% is caught in more than 0.999 of runs after 8.1 launches; at 1%, 2% in 0.95 and 3% in
more than 0.999; a loss of exactly d0 is called regressed in 0.0003. It takes a gap to the boundary of 7.0 launch sds
at 5 launches, 4.7 at 6, 3.0 at 8, 1.95 at 12, 1.1 at 24.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from .bands import Bands, bands_for
from .drift import drift, mark_stale, rival_improved, stale
from .evidence import Boundary, Summary, check_scores, interval, launches_needed, log_e, summarize, two_modes
from .verdict import Drift, Reason, Status, Verdict, is_decided

__all__ = [
    "Bands",
    "Drift",
    "Reason",
    "Status",
    "Verdict",
    "bands_for",
    "drift",
    "is_decided",
    "judge_base",
    "judge_claim",
    "judge_unclaimed",
    "mark_stale",
    "rival_improved",
    "stale",
]

INTERVAL_ALPHA = 0.05
"""Reported intervals cover the truth at 95%, at every look."""
UNCLAIMED_LAUNCHES = 3
"""What a run measures of a pair that nobody claims anything about: two such runs hold enough for a claim."""


@dataclass(frozen=True)
class _Question:
    """What one pair is asked."""

    factor: float
    """1 where the rival is the base."""
    family_size: int
    """N: how many such questions share alpha."""
    kernel: str
    rival: str
    target: str
    """What the sentence compares with: "the claim is 1.400x" or nothing for a base."""
    holds: Reason
    regressed: Reason

    def boundaries(self, bands: Bands) -> tuple[Boundary, Boundary]:
        """(refutes fine, refutes bad)."""
        centre = math.log(self.factor)
        return (
            Boundary(centre - bands.d0, "below", self.family_size / bands.alpha),
            Boundary(centre - bands.d1, "above", 1 / bands.beta),
        )


def judge_claim(
    scores: Sequence[float],
    factor: float,
    num_claims: int,
    bands: Bands,
    *,
    kernel: str = "the kernel",
    rival: str = "its rival",
) -> Verdict:
    """Whether a claim of `factor` over the rival holds.

    scores: launch scores ln(t_rival / t_kernel), all launches of this evidence; num_claims: N, all claims in the
    device's baselines. Raises ValueError for unusable scores, a factor that is not positive, or num_claims below 1.
    """
    if not (math.isfinite(factor) and factor > 0):
        raise ValueError(f"A claim's factor must be positive and finite, got {factor}.")
    target = f"the claim is {_times(factor)}"
    question = _Question(factor, num_claims, kernel, rival, target, Reason.MEETS_CLAIM, Reason.SLOWER_THAN_CLAIM)
    return replace(_judge(scores, question, bands), factor_claimed=factor)


def judge_base(
    scores: Sequence[float],
    num_pairs: int,
    bands: Bands,
    *,
    kernel: str = "the kernel",
    rival: str = "its base",
) -> Verdict:
    """Whether a kernel is as fast as the same kernel at the base commit (scores ln(t_base / t_head)).

    Holds with the reason `faster_than_base` where being no faster than d0 is refuted at N / alpha as well.
    """
    question = _Question(1.0, num_pairs, kernel, rival, "", Reason.NOT_SLOWER_THAN_BASE, Reason.SLOWER_THAN_BASE)
    verdict = _judge(scores, question, bands)
    if verdict.status is not Status.HOLDS:
        return verdict
    faster = Boundary(bands.d0, "above", num_pairs / bands.alpha)
    if not faster.crossed_by(summarize(scores, bands.sd_floor)):
        return verdict
    return replace(verdict, reason=Reason.FASTER_THAN_BASE, sentence=verdict.sentence[:-1] + ", and is faster.")


def judge_unclaimed(
    scores: Sequence[float], bands: Bands, *, kernel: str = "the kernel", rival: str = "its rival"
) -> Verdict:
    """Factor and interval of a pair that nobody claims anything about; decided at UNCLAIMED_LAUNCHES or k_min."""
    check_scores(scores)
    measured = _measured(scores, bands)
    missing = min(bands.k_min, UNCLAIMED_LAUNCHES) - len(scores)
    sentence = f"{_describe(measured, kernel, rival)}; nothing is claimed{_modes_note(scores, bands)}."
    if missing > 0:
        sentence = f"{sentence[:-1]}, and {_more(missing)} to come."
    return replace(
        measured,
        status=Status.UNCLAIMED,
        reason=Reason.TOO_FEW_LAUNCHES if missing > 0 else Reason.NO_CLAIM,
        sentence=sentence,
        launches_needed=missing if missing > 0 else None,
    )


def _judge(scores: Sequence[float], question: _Question, bands: Bands) -> Verdict:
    if question.family_size < 1:
        raise ValueError(f"At least the question itself must be counted, got {question.family_size} of them.")
    check_scores(scores)
    measured = _measured(scores, bands)
    prefix = _describe(measured, question.kernel, question.rival) + "; " + (question.target and f"{question.target}: ")
    missing = bands.k_min - len(scores)
    if missing > 0:
        sentence = f"{prefix}inconclusive, {_more(missing)} must be measured at least."
        return replace(measured, sentence=sentence, launches_needed=missing)
    summary = summarize(scores, bands.sd_floor)
    fine, bad = question.boundaries(bands)
    status, reason = _decide(scores, summary, question, bands)
    can_decide = reason in (Reason.UNDECIDED, Reason.NOT_ENOUGH_EVIDENCE)
    needed = launches_needed(summary, (fine, bad)) if can_decide else None
    outcome = _outcome(status, reason, needed, summary.mean - math.log(question.factor), question)
    return replace(
        measured,
        status=status,
        reason=reason,
        sentence=f"{prefix}{outcome}{_modes_note(scores, bands)}.",
        e_regressed=_e_value(summary, fine),
        e_holds=_e_value(summary, bad),
        launches_needed=needed,
    )


def _decide(scores: Sequence[float], summary: Summary, question: _Question, bands: Bands) -> tuple[Status, Reason]:
    fine, bad = question.boundaries(bands)
    modes = two_modes(scores, bands.sd_floor)
    if modes is not None and modes[0] <= bad.mu0 and modes[1] >= fine.mu0:
        return Status.INCONCLUSIVE, Reason.TWO_MODES
    if fine.crossed_by(summary):
        return Status.REGRESSED, question.regressed
    if bad.crossed_by(summary):
        return Status.HOLDS, question.holds
    given_up = summary.launches >= bands.k_max
    return Status.INCONCLUSIVE, Reason.NOT_ENOUGH_EVIDENCE if given_up else Reason.UNDECIDED


def _measured(scores: Sequence[float], bands: Bands) -> Verdict:
    """A verdict that says no more than what was measured: nothing, one launch's factor, or factor and interval."""
    factor = math.exp(math.fsum(scores) / len(scores)) if scores else None
    limits = None
    if len(scores) >= 2:
        low, high = interval(scores, INTERVAL_ALPHA, sd_floor=bands.sd_floor)
        # Beyond e^100 an interval is not worth a number, and math.exp overflows at e^710.
        limits = (math.exp(low), math.exp(high)) if max(-low, high) < 100 else None
    return Verdict(
        Status.INCONCLUSIVE, Reason.TOO_FEW_LAUNCHES, "", factor=factor, interval=limits, launches=len(scores)
    )


def _e_value(summary: Summary, boundary: Boundary) -> float:
    """E as a finite number (JSON has no infinity)."""
    return math.exp(min(log_e(summary, boundary.mu0), 700.0))


def _describe(measured: Verdict, kernel: str, rival: str) -> str:
    """ "mla/a is 1.221x as fast as mla/b (95% interval 1.203x to 1.250x, 6 launches)"."""
    if measured.factor is None:
        return f"{kernel} was not measured against {rival}"
    limits = "no interval yet"
    if measured.interval is not None:
        limits = f"95% interval {_times(measured.interval[0])} to {_times(measured.interval[1])}"
    launches = f"{measured.launches} launch{'' if measured.launches == 1 else 'es'}"
    return f"{kernel} is {_times(measured.factor)} as fast as {rival} ({limits}, {launches})"


def _outcome(status: Status, reason: Reason, needed: int | None, log_margin: float, question: _Question) -> str:
    if status is Status.REGRESSED:
        return f"regressed by {-math.expm1(log_margin):.1%}"
    if status is Status.HOLDS:
        return "holds" if question.target else "it is not slower than the base"
    if reason is Reason.TWO_MODES:
        return "inconclusive, for one mode would hold and one would not"
    if needed is None:
        return "inconclusive, and no affordable number of launches would decide"
    return f"inconclusive, {_more(needed)} would decide at today's variance"


def _modes_note(scores: Sequence[float], bands: Bands) -> str:
    """Names two modes that differ by more than what is called no difference."""
    modes = two_modes(scores, bands.sd_floor)
    if modes is None or modes[1] - modes[0] <= bands.d0:
        return ""
    return f" (two modes, {_times(math.exp(modes[0]))} and {_times(math.exp(modes[1]))})"


def _more(launches: int) -> str:
    return f"{launches} more launch{'' if launches == 1 else 'es'}"


def _times(factor: float) -> str:
    """Three decimals where the gate resolves them; four digits beyond 10."""
    return f"{factor:.3f}x" if factor < 10 else f"{factor:.4g}x"
