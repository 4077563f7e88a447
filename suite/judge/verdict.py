"""A verdict: a status, a reason code, a sentence, and the numbers behind them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any


class Status(str, Enum):
    """What a verdict says."""

    HOLDS = "holds"
    REGRESSED = "regressed"
    INCONCLUSIVE = "inconclusive"
    INCORRECT = "incorrect"
    FAILED = "failed"
    UNCLAIMED = "unclaimed"
    SKIPPED = "skipped"


class Reason(str, Enum):
    """Why."""

    # holds
    MEETS_CLAIM = "meets_claim"
    NOT_SLOWER_THAN_BASE = "not_slower_than_base"
    FASTER_THAN_BASE = "faster_than_base"
    UNCHANGED = "unchanged"
    """Same machine code as the base's: not measured again."""
    STALE = "stale"
    """Holds, but was last proven too long ago."""
    # regressed
    SLOWER_THAN_CLAIM = "slower_than_claim"
    SLOWER_THAN_BASE = "slower_than_base"
    RIVAL_IMPROVED = "rival_improved"
    """The kernel is as fast as when the claim was made; its rival got faster."""
    # inconclusive
    TOO_FEW_LAUNCHES = "too_few_launches"
    """Fewer than k_min: nothing is judged yet."""
    UNDECIDED = "undecided"
    """Fewer than k_max: another launch may decide."""
    NOT_ENOUGH_EVIDENCE = "not_enough_evidence"
    """k_max launches did not decide."""
    TWO_MODES = "two_modes"
    NOT_MEASURED = "not_measured"
    NOT_TOGETHER = "not_together"
    """It runs alone, but not beside the others: no one's fault that could be named."""
    # unclaimed
    NO_CLAIM = "no_claim"
    # incorrect
    WRONG_OUTPUT = "wrong_output"
    WRONG_FORM = "wrong_form"
    """An output is missing, shares memory, or is of another shape, dtype or layout."""
    INPUTS_CHANGED = "inputs_changed"
    BELOW_LIGHT_SPEED = "below_light_speed"
    OUTSIDE_INTERVAL = "outside_interval"
    """Another stream or thread works for it before or after the timed interval."""
    TAMPERED = "tampered"
    """It changed the process that it shares with its rivals, or what times and judges it."""
    TIMER_CONTRADICTED = "timer_contradicted"
    """Another process's clock says that its times cannot be true."""
    # failed
    RAISED = "raised"
    CRASHED = "crashed"
    HUNG = "hung"
    OUT_OF_MEMORY = "out_of_memory"
    DOES_NOT_COMPILE = "does_not_compile"
    # skipped
    NOT_SUPPORTED = "not_supported"
    MISSING_REQUIREMENT = "missing_requirement"


@dataclass(frozen=True)
class Drift:
    """A claim's two times against those it was made with, as fractions: 0.03 is 3% slower than stored."""

    kernel: float
    rival: float


@dataclass(frozen=True)
class Verdict:
    """One verdict. A number is None where it is not known or does not apply."""

    status: Status
    reason: Reason
    sentence: str
    """For people: both kernels, factor, interval, launches, outcome."""
    factor_claimed: float | None = None
    """Times as fast as the rival; None without a claim."""
    factor: float | None = None
    """Times as fast as the rival: exp of the mean launch score."""
    interval: tuple[float, float] | None = None
    """95% confidence sequence of the factor; None while it is unbounded."""
    launches: int = 0
    e_regressed: float | None = None
    """E against "it is fine"; regressed from N / alpha."""
    e_holds: float | None = None
    """E against "it is bad"; holds from 1 / beta."""
    launches_needed: int | None = None
    """Further launches that would decide at today's mean and variance; None where none would, or none are needed."""
    drift: Drift | None = None

    def to_json(self) -> dict[str, Any]:
        """The fields as a run record holds them."""
        document = asdict(self)
        document["status"], document["reason"] = self.status.value, self.reason.value
        document["interval"] = None if self.interval is None else list(self.interval)
        return document


def is_decided(verdict: Verdict) -> bool:
    """Whether further launches of the same run cannot change the verdict's status."""
    return verdict.reason not in (Reason.TOO_FEW_LAUNCHES, Reason.UNDECIDED)
