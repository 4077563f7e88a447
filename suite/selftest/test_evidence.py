"""The e-value, its inversion, modes - and the error rate promised however often one looks."""

from __future__ import annotations

import math
import random

import pytest

from suite.judge.evidence import (
    Boundary,
    Summary,
    interval,
    launch_score,
    launches_needed,
    log_e_value,
    summarize,
    two_modes,
)

pytestmark = pytest.mark.side_by_side


def draw(rng: random.Random, mean: float, sd: float, launches: int) -> list[float]:
    return [rng.gauss(mean, sd) for _ in range(launches)]


def test_e_value_is_the_formula() -> None:
    scores, mu0, g = [0.11, 0.14, 0.09, 0.12, 0.13], 0.05, 25.0
    mean = sum(scores) / 5
    s = math.sqrt(sum((score - mean) ** 2 for score in scores) / 4)
    t_squared = 5 * ((mean - mu0) / s) ** 2
    expected = (1 + 5 * g) ** -0.5 * ((1 + t_squared / 4) / (1 + t_squared / ((1 + 5 * g) * 4))) ** 2.5
    assert math.exp(log_e_value(scores, mu0, g)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("launches", "gap"), [(5, 7.0), (6, 4.7), (8, 3.0), (12, 1.95), (24, 1.1)])
def test_gap_that_decides_fifty_claims(launches: int, gap: float) -> None:
    boundary = Boundary(0.0, "below", 50 / 0.05)
    assert boundary.crossed_by(Summary(launches, mean=-gap * 1.03, sd=1.0))
    assert not boundary.crossed_by(Summary(launches, mean=-gap * 0.97, sd=1.0))
    assert not boundary.crossed_by(Summary(launches, mean=gap * 2, sd=1.0)), "the other side must not cross"


@pytest.mark.parametrize("launches", [3, 5, 24, 400])
@pytest.mark.parametrize("alpha", [0.05, 0.2])
def test_interval_ends_where_e_is_one_over_alpha(launches: int, alpha: float) -> None:
    scores = draw(random.Random(launches), 0.3, 0.01, launches)
    low, high = interval(scores, alpha)
    assert low < high < math.inf
    for end in (low, high):
        assert math.exp(log_e_value(scores, end)) == pytest.approx(1 / alpha, rel=1e-9)


def test_interval_of_too_few_launches_is_unbounded() -> None:
    assert interval([0.1, 0.1001], 0.05) == (-math.inf, math.inf)


def test_interval_covers_the_truth_at_every_look() -> None:
    rng = random.Random(11)
    missed, runs = 0, 2000
    for _ in range(runs):
        scores = draw(rng, 0.2, 0.01, 20)
        limits = (interval(scores[:launches]) for launches in range(2, 21))
        missed += any(not low <= 0.2 <= high for low, high in limits)
    assert missed <= 0.05 * runs
    assert missed > 0, "a mixture this wide cannot cover every time; the simulation does not look"


def test_false_alarms_under_repeated_looks_stay_below_alpha_over_n() -> None:
    """At the boundary, 23 looks each: the e-value keeps alpha / N; a t-test repeated at the same level does not."""
    rng = random.Random(5)
    runs, num_claims, alpha = 5000, 2, 0.05
    boundary = Boundary(0.0, "below", num_claims / alpha)
    alarms = repeated_t_tests = 0
    for _ in range(runs):
        scores = draw(rng, 0.0, 1.0, 24)
        summaries = [summarize(scores[:launches]) for launches in range(2, 25)]
        alarms += any(map(boundary.crossed_by, summaries))
        # The 2.5% quantile of t at 12 launches: less than twice the level at every look taken here.
        repeated_t_tests += any(math.sqrt(s.launches) * s.mean / s.sd < -2.2 for s in summaries if s.launches >= 5)
    assert alarms / runs <= alpha / num_claims
    assert repeated_t_tests / runs > 2 * alpha / num_claims


def test_a_truth_on_the_fine_side_alarms_no_more_often() -> None:
    """Adding a constant to every score can only undo a crossing from below."""
    rng = random.Random(6)
    boundary = Boundary(0.0, "below", 5.0)
    crossings = 0
    for _ in range(2000):
        scores = draw(rng, -0.5, 1.0, 8)
        lifted = [score + 0.3 for score in scores]
        crossings += boundary.crossed_by(summarize(scores))
        assert boundary.crossed_by(summarize(scores)) or not boundary.crossed_by(summarize(lifted))
    assert crossings > 50


def test_identical_scores_are_strong_but_finite_evidence() -> None:
    scores = [0.25] * 6
    assert math.isfinite(log_e_value(scores, 0.2))
    low, high = interval(scores)
    assert low < 0.25 < high
    assert log_e_value(scores, 0.2, sd_floor=0.05) < log_e_value(scores, 0.2), "a floor may only weaken evidence"


def test_e_value_does_not_overflow() -> None:
    assert math.isfinite(log_e_value([50.0] * 5000, -50.0))
    assert math.isfinite(log_e_value([1e-300, 0.0, 1e-300], 0.0))


@pytest.mark.parametrize("scores", [[], [0.1], [0.1, math.nan], [0.1, math.inf], [0.1, -math.inf], [0.1, 1e300]])
def test_unusable_scores_are_refused(scores: list[float]) -> None:
    for use in (lambda: log_e_value(scores, 0.0), lambda: interval(scores)):
        with pytest.raises(ValueError, match=r"\.$"):
            use()


def test_unusable_parameters_are_refused() -> None:
    scores = [0.1, 0.2, 0.3]
    for bad in ({"g": 0.0}, {"g": math.nan}, {"sd_floor": 0.0}, {"sd_floor": math.nan}):
        with pytest.raises(ValueError, match="positive"):
            log_e_value(scores, 0.0, **bad)
    with pytest.raises(ValueError, match="alpha"):
        interval(scores, 1.0)


def test_launch_score_is_the_median_log_ratio_of_blocks() -> None:
    assert launch_score([1.0, 2.0, 4.0], [3.0, 4.0, 4.0]) == pytest.approx(math.log(2))
    assert launch_score([2.0, 3.0], [1.0, 1.0]) < 0, "a slower kernel scores below zero"


@pytest.mark.parametrize(
    ("kernel", "rival"), [([], []), ([1.0], [1.0, 2.0]), ([0.0], [1.0]), ([1.0], [-1.0]), ([math.nan], [1.0])]
)
def test_launch_score_refuses_times_that_are_none(kernel: list[float], rival: list[float]) -> None:
    with pytest.raises(ValueError, match="block"):
        launch_score(kernel, rival)


def test_launches_needed_are_the_fewest_that_decide() -> None:
    boundaries = (Boundary(-0.005, "below", 1000.0), Boundary(-0.01, "above", 20.0))
    for mean in (-0.03, -0.02, -0.011, -0.0075, -0.004, 0.0):
        summary = Summary(5, mean, 0.012)
        needed = launches_needed(summary, boundaries)
        assert needed is not None
        decides = [any(b.crossed_by(Summary(5 + more, mean, 0.012)) for b in boundaries) for more in range(needed + 1)]
        assert decides.index(True) == needed


def test_launches_needed_gives_up_on_a_mean_at_the_boundary() -> None:
    assert launches_needed(Summary(5, 0.0, 0.01), (Boundary(0.0, "below", 20.0),)) is None
    assert launches_needed(Summary(8, -1.0, 0.01), (Boundary(0.0, "below", 20.0),)) == 0


@pytest.mark.parametrize("launches", [6, 12, 24])
def test_two_modes_are_named(launches: int) -> None:
    rng = random.Random(launches)
    modes = (math.log(1.31), math.log(1.52))
    scores = [modes[launch % 2] + rng.gauss(0, 0.003) for launch in range(launches)]
    found = two_modes(scores)
    assert found is not None
    assert list(found) == pytest.approx(modes, abs=0.005)


def test_one_mode_is_rarely_taken_for_two() -> None:
    rng = random.Random(8)
    runs = 400
    split = 0
    for _ in range(runs):
        scores = draw(rng, 0.0, 0.01, 24)
        split += any(two_modes(scores[:launches]) for launches in range(5, 25, 3))
    assert split <= 0.02 * runs


def test_one_outlier_and_identical_scores_are_not_modes() -> None:
    assert two_modes([0.3, 0.301, 0.299, 0.302, 0.1]) is None
    assert two_modes([0.3] * 12) is None
    assert two_modes([0.3] * 6 + [0.30002] * 6) is None, "modes inside the timer's resolution are none"
    assert two_modes([]) is None
