"""What is measured for a question, and when it is answered."""

from __future__ import annotations

from datetime import datetime, timezone
from types import SimpleNamespace
from typing import Any

import pytest

from suite.bench import Bench
from suite.judge.comparisons import Comparison, Court
from suite.judge.verdict import Reason, Status

pytestmark = pytest.mark.side_by_side

HAND, REFERENCE, VENDOR, PROBLEM = "toy/hand", "toy/reference", "toy/vendor", "toy/p"
CLAIM = Comparison("claim", HAND, PROBLEM, rival=REFERENCE, factor=1.2)


def run_of(launches: int, ratio: float) -> dict[str, Any]:
    """A record of launches in which the reference takes `ratio` times as long as the kernel."""
    kernels = {HAND: {"origin": "hand"}, REFERENCE: {"origin": "reference"}, VENDOR: {"origin": "vendor"}}
    times_us = {HAND: [100.0] * 10, REFERENCE: [100.0 * ratio] * 10}
    measurement = {"problem": PROBLEM, "timer": "graph_records", "times_us": times_us}
    made = [{"launch": f"run/{i}", "measurements": [measurement], "failures": []} for i in range(launches)]
    return {"checks": [], "launches": made, "kernels": kernels, "environment": {}}


def court(stored: list[float]) -> Court:
    scores = {(HAND, REFERENCE, PROBLEM): stored} if stored else {}
    return Court("cuda", num_claims=1, num_bases=0, now=datetime.now(timezone.utc), stored=scores)


def test_a_claim_against_the_reference_is_measured_against_it() -> None:
    selection = SimpleNamespace(
        contestants=lambda comparison: [HAND, REFERENCE],
        info=lambda kernel: SimpleNamespace(origin=kernel.partition("/")[2]),
    )
    bench = Bench(options=None, chosen=None, selection=selection)  # type: ignore[arg-type]
    fit = {(HAND, PROBLEM), (REFERENCE, PROBLEM)}
    assert bench._work(run_of(1, 1.42), [CLAIM], fit) == {PROBLEM: [HAND, REFERENCE]}


def test_stored_evidence_alone_decides_nothing() -> None:
    stored = [0.35, 0.352, 0.349, 0.351, 0.35, 0.348, 0.351, 0.35]
    fresh_missing = court(stored).rule(CLAIM, run_of(0, 1.42))
    assert fresh_missing.verdict.status is Status.HOLDS
    assert not fresh_missing.decided
    assert court(stored).rule(CLAIM, run_of(5, 1.42)).decided


def test_a_lost_claim_is_regressed_and_red() -> None:
    ruling = court([]).rule(CLAIM, run_of(6, 1.1))
    assert (ruling.verdict.status, ruling.verdict.reason) == (Status.REGRESSED, Reason.SLOWER_THAN_CLAIM)
    assert ruling.red
    assert ruling.decided


def test_an_unclaimed_kernel_without_a_rival_is_not_decided_before_it_was_timed() -> None:
    question = Comparison("unclaimed", HAND, PROBLEM)
    assert not court([]).rule(question, run_of(0, 1.0)).decided
    answered = court([]).rule(question, run_of(5, 1.3))
    assert answered.rival == REFERENCE
    assert answered.decided


@pytest.mark.parametrize(("slow_us", "decided"), [(290.0, True), (150.0, False)])
def test_whose_rival_is_far_behind_waits_for_no_more_of_it(slow_us: float, decided: bool) -> None:
    """No launch would time that rival again, so a library alone in front was launched until the most launches."""
    run = run_of(1, 1.3)
    run["kernels"]["toy/slow"] = {"origin": "vendor"}
    run["launches"][0]["measurements"][0]["times_us"] |= {VENDOR: [100.0] * 10, "toy/slow": [slow_us] * 10}
    ruling = court([]).rule(Comparison("unclaimed", VENDOR, PROBLEM), run)
    assert (ruling.rival, ruling.decided) == ("toy/slow", decided)
    assert not court([]).rule(Comparison("unclaimed", HAND, PROBLEM), run).decided


def test_launches_of_another_timer_are_not_pooled() -> None:
    run = run_of(6, 1.3)
    other = {"problem": PROBLEM, "timer": "queued_events", "times_us": {HAND: [104.0] * 10, REFERENCE: [104.0] * 10}}
    run["launches"].append({"launch": "run/6", "measurements": [other], "failures": []})
    verdict = court([]).rule(CLAIM, run).verdict
    assert verdict.launches == 6
    assert verdict.factor == pytest.approx(1.3)
