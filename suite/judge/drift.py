"""What explains a verdict: the kernel's and the rival's own times against stored ones, and a claim's age.

Absolute times drift with the machine, so they explain and never judge. They are compared only between equal
environments: where torch or the driver changed with the rival's time, the change is this commit's own doing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta, timezone

from .bands import Bands
from .verdict import Drift, Reason, Status, Verdict

MAX_AGE_DAYS = 180
"""A claim that was last proven longer ago is stale."""


def drift(
    stored_kernel_us: float,
    stored_rival_us: float,
    kernel_us: float,
    rival_us: float,
    stored_environment: Mapping[str, str],
    environment: Mapping[str, str],
) -> Drift | None:
    """Both times against the stored ones, or None where a stored fact of the environment is not the same now.

    Raises ValueError where a time is not positive and finite.
    """
    for value in (stored_kernel_us, stored_rival_us, kernel_us, rival_us):
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"Drift compares positive, finite times, got {value} us.")
    if any(environment.get(name) != value for name, value in stored_environment.items()):
        return None
    return Drift(kernel=kernel_us / stored_kernel_us - 1, rival=rival_us / stored_rival_us - 1)


def rival_improved(verdict: Verdict, moved: Drift | None, bands: Bands) -> Verdict:
    """The verdict with its drift; a lost claim is `rival_improved` where the kernel kept its own time within d1 and
    the rival got faster by more than d0. It stays regressed: red on main, not on the change that did not cause it."""
    verdict = replace(verdict, drift=moved)
    if moved is None or verdict.reason is not Reason.SLOWER_THAN_CLAIM:
        return verdict
    kernel_kept = math.log1p(moved.kernel) <= bands.d1
    rival_faster = math.log1p(moved.rival) < -bands.d0
    if not (kernel_kept and rival_faster):
        return verdict
    explanation = f"The rival's own time changed by {moved.rival:+.1%}, the kernel's by {moved.kernel:+.1%}."
    return replace(verdict, reason=Reason.RIVAL_IMPROVED, sentence=f"{verdict.sentence} {explanation}")


def stale(claim_proven_utc: str, now: datetime, max_age_days: int = MAX_AGE_DAYS) -> str | None:
    """The sentence that says how old a claim is, or None while it is young enough.

    claim_proven_utc: ISO 8601, as baselines hold it; now: with a time zone. Raises ValueError where it is no date.
    """
    # datetime.fromisoformat reads a trailing Z from Python 3.11 only.
    proven = datetime.fromisoformat(claim_proven_utc.replace("Z", "+00:00"))
    if proven.tzinfo is None:
        proven = proven.replace(tzinfo=timezone.utc)
    age = now - proven
    if age <= timedelta(days=max_age_days):
        return None
    return f"The claim was last proven {age.days} days ago ({max_age_days} are allowed): promote a new run."


def mark_stale(verdict: Verdict, claim_proven_utc: str, now: datetime, max_age_days: int = MAX_AGE_DAYS) -> Verdict:
    """The verdict, with the reason `stale` and a warning where it holds and its claim is too old."""
    warning = stale(claim_proven_utc, now, max_age_days)
    if warning is None or verdict.status is not Status.HOLDS:
        return verdict
    return replace(verdict, reason=Reason.STALE, sentence=f"{verdict.sentence} {warning}")
