"""Every claim of the device, every base under --base, and every kernel x problem that nothing is claimed of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from suite.bench import Bench
    from suite.judge.comparisons import Comparison
    from suite.replay_clock import ReplayClock


def test_speedup(comparison: tuple[Comparison, ReplayClock], bench: Bench, rule: Any, benchmark: Any) -> None:
    """The verdict of the judge; the kernel's device seconds go to pytest-benchmark."""
    question, clock = comparison
    ruling = bench.ruling(question)
    rounds = clock.load(bench.times_us(question.kernel, question.problem))
    if rounds:
        benchmark.pedantic(clock.advance, rounds=rounds, iterations=1)
    rule(ruling)
