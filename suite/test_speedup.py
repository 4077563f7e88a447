"""Every claim of the device, every base under --base, and every kernel x problem that nothing is claimed of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from suite.bench import Bench
    from suite.judge.comparisons import Comparison, Ruling
    from suite.replay_clock import ReplayClock


@pytest.fixture
def rule(request: pytest.FixtureRequest, bench: Bench) -> Any:
    """A function that turns a ruling into pytest's outcome."""

    def apply(ruling: Ruling) -> None:
        status = ruling.verdict.status.value
        request.node.user_properties.append(("verdict", status))
        if ruling.red and not request.config.getoption("no_gate"):
            pytest.fail(ruling.verdict.sentence, pytrace=False)
        if status == "skipped":
            pytest.skip(ruling.verdict.sentence)
        if status in ("incorrect", "failed"):
            pytest.xfail(ruling.verdict.sentence)

    return apply


def test_speedup(comparison: tuple[Comparison, ReplayClock], bench: Bench, rule: Any, benchmark: Any) -> None:
    """The verdict of the judge; the kernel's device seconds go to pytest-benchmark."""
    question, clock = comparison
    ruling = bench.ruling(question)
    rounds = clock.load(bench.times_us(question.kernel, question.problem))
    if rounds:
        benchmark.pedantic(clock.advance, rounds=rounds, iterations=1)
    rule(ruling)
