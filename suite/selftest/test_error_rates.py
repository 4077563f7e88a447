"""The gate's error rates: simulated runs are the gate's own, other tools' rules are theirs, planted work is exact."""

from __future__ import annotations

import math
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kernels.discover import discover
from suite.commands.promote import doubt, lower_bound
from suite.device.specs import spec_by_key
from suite.judge.bands import Bands, bands_for
from suite.judge.error_rates import (
    HOLDS,
    INCONCLUSIVE,
    REGRESSED,
    claim,
    claim_at_last,
    family_rate,
    gate_runs,
    resample,
    simulate,
    upper_limit,
)
from suite.judge.gate import is_decided, judge_claim
from suite.judge.rival_rules import RULES, asv_is_red, mann_whitney_p, nvbench_is_red, red_rate
from suite.measure import aa_launches
from suite.measure.aa_kernels import BASE, PLANTED_PERCENT, SLOWED, TWIN, UNITS, cpu_files
from suite.measure.compile import compile_all
from suite.measure.trial import copy_project
from suite.record.pairs import round_down

pytestmark = pytest.mark.side_by_side

NAMES = {HOLDS: "holds", REGRESSED: "regressed", INCONCLUSIVE: "inconclusive"}
RNG = random.Random(20_261_122)


def gauss(mean: float, sd: float, launches: int) -> list[float]:
    return [RNG.gauss(mean, sd) for _ in range(launches)]


@pytest.fixture(autouse=True)
def drawn_anew() -> None:
    """What a test draws does not depend on the tests before it."""
    RNG.seed(20_261_122)


# The simulated gate


@pytest.mark.parametrize("case", range(60))
def test_the_simulated_gate_is_the_gate(case: int) -> None:
    rng = random.Random(case)
    bands = Bands(
        0.005, 0.01, k_min=rng.choice([2, 5]), k_max=rng.choice([5, 12, 24]), sd_floor=rng.choice([1e-4, 3e-3])
    )
    mode, sd, loss = rng.choice([0, 0.03]), rng.choice([0.0, 0.001, 0.01]), rng.choice([0, 0.008, 0.02])
    scores = [rng.gauss(0.3 - loss, sd) + rng.choice([0, mode]) for _ in range(bands.k_max)]
    factor = math.exp(0.3 - rng.choice([0, 0.004]))
    launches = bands.k_min
    while not is_decided(verdict := judge_claim(scores[:launches], factor, 50, bands)):
        launches += 1
    ended, spent = gate_runs(np.array([scores, scores]), np.log([factor, factor]), bands, 50)
    assert [NAMES[end] for end in ended] == [verdict.status.value] * 2
    assert list(spent) == [launches] * 2


def test_the_simulated_claim_is_promotes() -> None:
    scores = [gauss(0.2, 0.01, 10), gauss(-3.0, 0.002, 10), gauss(2.5, 0.001, 10)]
    log_factors, refused = claim(np.array(scores), bands_for("cuda", 300.0))
    assert [math.exp(x) for x in log_factors] == pytest.approx([round_down(math.exp(lower_bound(s))) for s in scores])
    assert list(refused) == [doubt(list(s), "cuda", 300.0) is not None for s in scores]
    assert claim(np.array([gauss(0.2, 0.02, 10)]), bands_for("cuda", 300.0))[1].all(), "an uncertain factor"


def test_a_claim_that_is_refused_is_made_of_more_launches() -> None:
    bands = bands_for("cuda", 150.0)
    sure, doubted, hopeless = gauss(0.3, 0.001, 60), gauss(0.3, 0.007, 60), gauss(0.3, 0.05, 60)
    log_factors, refused = claim_at_last(np.array([sure, doubted, hopeless]), bands)
    assert list(refused) == [False, False, True]
    assert claim(np.array([doubted[:15]]), bands)[1].all()
    assert log_factors[0] == claim(np.array([sure[:15]]), bands)[0][0]
    assert log_factors[1] in {claim(np.array([doubted[:n]]), bands)[0][0] for n in (30, 60)}


def test_resampling_takes_pieces_of_consecutive_launches() -> None:
    pool = np.arange(20.0)
    drawn = resample(pool, (400, 30), np.random.default_rng(1))
    steps = np.diff(drawn, axis=1) % 20
    assert set(np.unique(drawn)) == set(pool)
    # A piece ends with chance 1/5 a launch, and a new one begins at any of 20 launches, the next one included.
    assert float((steps == 1).mean()) == pytest.approx(0.8 + 0.2 / 20, abs=0.02)


def test_rates_of_clear_cases() -> None:
    bands, quiet = bands_for("cuda", 150.0), gauss(0.3, 0.002, 24)
    unchanged = simulate(quiet, quiet, bands, 50, 4000, 1)
    assert (unchanged.runs, unchanged.regressed, unchanged.refused) == (4000, 0.0, 0.0)
    assert unchanged.holds > 0.99
    slower = simulate(quiet, [score - 0.03 for score in quiet], bands, 50, 1000, 1)
    assert (slower.regressed, slower.holds) == (1.0, 0.0)
    assert slower == simulate(quiet, [score - 0.03 for score in quiet], bands, 50, 1000, 1)
    noisy = simulate(gauss(0.3, 0.3, 24), quiet, bands, 50, 100, 1)
    assert (noisy.runs, noisy.refused) == (0, 1.0)
    with pytest.raises(ValueError, match="two launches"):
        simulate(quiet, quiet[:1], bands, 50, 10, 1)


def test_limits_of_rates() -> None:
    assert upper_limit(0, 3000) == pytest.approx(1e-3)
    assert 0.01 < upper_limit(10, 1000) < 0.02
    assert family_rate(0.01, 50) == pytest.approx(1 - 0.99**50)
    assert (family_rate(0.0, 50), family_rate(1.0, 50)) == (0.0, 1.0)


# Other tools' rules


def test_pytest_benchmark_compares_one_figure() -> None:
    median, low, mean = (rule.is_red for rule in RULES[:3])
    earlier, now = [100.0, 101, 102, 103, 104], [100.0, 105, 108, 109, 110]
    assert median(earlier, now)
    assert not low(earlier, now)
    assert not mean(earlier, [103.0] * 5)
    assert mean(earlier, [102.0, 102, 102, 102, 200])
    assert not median([100.0], [105.0]), "exactly 5% is not above 5%"


def test_asv_needs_its_factor_and_a_difference() -> None:
    earlier = [100.0 + i for i in range(10)]
    assert asv_is_red(earlier, [time * 1.2 for time in earlier])
    assert not asv_is_red(earlier, [time * 1.09 for time in earlier])
    assert not asv_is_red([50.0, 100, 200], [60.0, 115, 230]), "three samples prove nothing"
    assert mann_whitney_p(earlier, [t + 100 for t in earlier]) == pytest.approx(
        math.erfc(3.7796 / math.sqrt(2)), rel=1e-3
    )
    assert mann_whitney_p(earlier, earlier) == 1.0
    assert mann_whitney_p([1.0] * 9, [1.0] * 9) == 1.0


def test_nvbench_compares_with_the_larger_noise() -> None:
    tight, loose = [100.0, 100.5, 101, 101.5, 102], [90.0, 95, 103, 110, 115]
    assert nvbench_is_red(tight, [time * 1.02 for time in tight])
    assert not nvbench_is_red(tight, loose)
    assert not nvbench_is_red(tight, [time * 0.9 for time in tight])


def test_red_rate_pairs_different_launches_only() -> None:
    launches = [[100.0, 101, 102], [200.0, 201, 202], [100.0, 101, 102]]
    assert red_rate(RULES[0], launches, launches) == pytest.approx(2 / 6)
    assert red_rate(RULES[0], launches[:1], launches[:1]) is None


# Planted work


def test_planted_products_are_exact_shares_more() -> None:
    units = {path: re.findall(r"^UNITS = (\d+)$", text, re.MULTILINE) for path, text in cpu_files().items()}
    assert units[f"kernels/planted/{BASE}.py"] == units[f"kernels/planted/{TWIN}.py"] == [str(UNITS)]
    for percent in PLANTED_PERCENT:
        assert units[f"kernels/planted/{SLOWED[percent]}.py"] == [str(UNITS + UNITS * percent // 100)]


def test_added_files_are_kernels_of_the_project(tmp_path: Path) -> None:
    gpu = aa_launches._slowed_files(dict.fromkeys(aa_launches.GPU_PROBLEMS, 20.0), step_us=0.002)
    root = copy_project(tmp_path / "tree", {**gpu, **cpu_files()})
    known = discover(root)
    assert not [kernel.broken for kernel in known.values() if kernel.broken]
    assert known["mla/planted_slow_3"].uses_triton
    assert {"mla/planted_rival", "planted/planted_rival", "planted/reference"} <= known.keys()
    name = aa_launches.GPU_PROBLEMS[0].partition("/")[2]
    assert f"'{name}': 364" in gpu["kernels/mla/planted_slow_3.py"], "64 steps, and 3% of 20 us at 2 ns each"
    assert gpu["kernels/mla/planted_base.py"] == gpu["kernels/mla/planted_twin.py"]
    case = ("mla/planted_slow_3", aa_launches.GPU_PROBLEMS[0])
    result = next(iter(compile_all([case], spec_by_key("h200").device(), 1, 300, root=root)))
    assert (result.status, len(result.launches)) == ("compiled", 3), result.sentence


def test_a_launch_counts_only_whole_and_by_one_timer() -> None:
    one, variants = aa_launches.SizeClass("mla/p", "mla/vendor"), {"base": "mla/planted_base", "rival": "mla/vendor"}

    def measurement(timer: str, *kernels: str) -> dict[str, Any]:
        return {"problem": "mla/p", "timer": timer, "times_us": {kernel: [1.0, 2.0] for kernel in kernels}}

    whole = measurement("graph_records", *variants.values())
    assert aa_launches._keep(one, variants, [measurement("graph_records", "mla/planted_base"), whole])
    assert not aa_launches._keep(one, variants, [measurement("graph_records", "mla/planted_base")])
    assert not aa_launches._keep(one, variants, [measurement("queued_events", *variants.values())])
    assert not aa_launches._keep(one, variants, [whole | {"problem": "mla/other"}])
    assert (one.timer, one.launches) == ("graph_records", [{"base": [1.0, 2.0], "rival": [1.0, 2.0]}])


def test_the_rival_is_the_fastest_vendor_timed_beside_the_base() -> None:
    times = {"mla/planted_base": [9.0], "mla/slow": [8.0], "mla/fast": [7.0]}
    measured = [{"problem": "mla/p", "times_us": times}, {"problem": "mla/p", "times_us": {"mla/eager": [1.0]}}]
    assert aa_launches._rival("mla/p", ["mla/slow", "mla/fast", "mla/eager"], measured) == "mla/fast"
    assert aa_launches._rival("mla/p", ["mla/eager"], measured) == "mla/planted_rival"
