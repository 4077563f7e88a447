"""In the parent: whether what a worker reports can be true, by the parent's own clock and by physics."""

from __future__ import annotations

import statistics
from collections.abc import Collection
from typing import Any

from .account import Sequence
from .blocks import BlockSource

WITNESS_SHARE, WITNESS_SLACK_US = 0.6, 10.0
"""A cold call takes longer than calls back to back on warm caches; its reported time must be this share of theirs."""


def consistent(
    reply: dict[str, Any], elapsed_s: float, source: BlockSource, witnessed: Collection[str] = ()
) -> dict[str, Any]:
    """The reply, or a failure where it cannot be what this process asked for and waited for.

    Of the kernels `witnessed`, those that were measured must have been timed by this process's clock.
    """
    if reply["status"] != "ran":
        return reply
    measured = reply["measurements"]
    claimed_s = sum(t for m in measured for times_us in m["times_us"].values() for t in times_us) / 1e6
    sequences = [(m, source.sequences.get(m.get("sequence"))) for m in measured]
    sentence = ""
    if claimed_s > elapsed_s:
        sentence = f"Its worker reports {claimed_s:.2f} s of calls within {elapsed_s:.2f} s."
    elif any(s is None or not s.complete or not _fits(m, s) for m, s in sequences):
        sentence = "Its worker reports other calls than it was given."
    elif unseen := {k for m in measured for k in m["times_us"]} & set(witnessed) - source.witness_us().keys():
        sentence = f"Its worker kept the calls of {', '.join(sorted(unseen))} from this process's clock."
    return {"status": "incorrect", "reason": "tampered", "sentence": sentence} if sentence else reply


def _fits(measurement: dict[str, Any], sequence: Sequence) -> bool:
    """Whether each kernel has as many times as it had calls; and those that were told call by call are these."""
    times_us = measurement["times_us"]
    called = {kernel: sequence.kernels.count(kernel) for kernel in sequence.kernels}
    told = sequence.told_by_kernel()
    return {kernel: len(times) for kernel, times in times_us.items()} == called and told in (None, times_us)


def contradicted(measurements: list[dict[str, Any]], source: BlockSource) -> list[dict[str, str]]:
    """Failures of kernels whose reported times are shorter than this process's own clock allows."""
    failures = []
    for measurement in measurements:
        for kernel, (told_us, waited_us) in source.sequences[measurement["sequence"]].contradictions().items():
            sentence = (
                f"Its calls are reported with {told_us:.0f} us; another process waited {waited_us:.0f} us for one."
            )
            failures.append(_failure(kernel, sentence))
    witness_us = source.witness_us()
    for kernel, by_clock_us in witness_us.items():
        reported_us = [statistics.mean(m["times_us"][kernel]) for m in measurements if m["times_us"].get(kernel)]
        if reported_us and min(reported_us) < WITNESS_SHARE * by_clock_us - WITNESS_SLACK_US:
            sentence = (
                f"Its calls are reported with {min(reported_us):.1f} us, but back to back, on warm caches, they took "
                f"{by_clock_us:.1f} us by the clock of another process."
            )
            failures.append(_failure(kernel, sentence))
    return failures


def _failure(kernel: str, sentence: str) -> dict[str, str]:
    return {"kernel": kernel, "reason": "timer_contradicted", "sentence": sentence}


def below_light_speed(measurements: list[dict[str, Any]], light_us: float) -> list[dict[str, str]]:
    """Failures of kernels that were faster than the device's bandwidth and peak rate allow, by any timer."""
    medians_us = {k: statistics.median(t) for m in measurements for k, t in m["times_us"].items()}
    return [
        {
            "kernel": kernel,
            "reason": "below_light_speed",
            "sentence": f"Its median of {time_us:.2f} us is below the {light_us:.2f} us that the device's "
            "bandwidth and peak rate allow: the work was not done, or not in the timed interval.",
        }
        for kernel, time_us in medians_us.items()
        if time_us < light_us
    ]
