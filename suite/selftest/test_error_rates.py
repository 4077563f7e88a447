"""The gate's error rates: simulated runs are the gate's own, other tools' rules are theirs, planted work is exact."""

from __future__ import annotations

import json
import math
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kernels.discover import discover
from suite.commands import aa
from suite.commands.promote import doubt, lower_bound
from suite.device.specs import spec_by_key
from suite.judge import error_curve
from suite.judge.bands import Bands, bands_for
from suite.judge.error_rates import (
    HOLDS,
    INCONCLUSIVE,
    REGRESSED,
    claim,
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
from suite.measure.crew import RunError
from suite.measure.trial import copy_project
from suite.record.baseline import read_baselines
from suite.record.error_rates import error_rates_path, read_error_rates, write_error_rates
from suite.record.pairs import round_down
from suite.record.schema import RecordError
from suite.report.error_rates import NOT_MEASURED, draw_power, error_rates_section, false_alarm_words

pytestmark = pytest.mark.side_by_side

NAMES = {HOLDS: "holds", REGRESSED: "regressed", INCONCLUSIVE: "inconclusive"}
RNG = random.Random(20_261_122)


def gauss(mean: float, sd: float, launches: int) -> list[float]:
    return [RNG.gauss(mean, sd) for _ in range(launches)]


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


# From launches to a file, a page and a plot


def launches(count: int, us: float = 150.0, sd: float = 0.002) -> list[dict[str, list[float]]]:
    slower = {"base": 0, "twin": 0, "rival": 30, **{str(x): x for x in PLANTED_PERCENT}}
    return [
        {name: [us * (1 + x / 100) * math.exp(d + RNG.gauss(0, 0.002)) for d in gauss(shift, 0.002, 12)]
         for name, x in slower.items()}
        for shift in gauss(0, sd, count)
    ]  # fmt: skip


@pytest.fixture(autouse=True)
def drawn_anew() -> None:
    """What a test draws does not depend on the tests before it."""
    RNG.seed(20_261_122)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(error_curve, "RUNS_UNCHANGED", 3000)
    monkeypatch.setattr(error_curve, "RUNS_SLOWED", 500)


def run_with(monkeypatch: pytest.MonkeyPatch, root: Path, count: int, out: Path | None = None) -> int:
    samples = aa_launches.Samples([aa_launches.SizeClass("mla/p", "mla/v", "perf_counter", launches(count, 6e3))], [])
    monkeypatch.setattr(aa, "measure", lambda chosen, runs, say: samples)
    return aa.run(root, "cpu", count, out)


def test_the_command_prints_stores_and_draws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], quick: None
) -> None:
    assert run_with(monkeypatch, tmp_path, 12, tmp_path / "out") == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "False alarms on unchanged code: none of 3,000" in printed
    assert re.search(r"caught in 99% of runs: (5|10)% at (5\.9|6\.0)\d ms", printed)
    (stored,) = tmp_path.glob("baselines/*/selftest/error_rates.json")
    key = stored.parent.parent.name
    assert stored == error_rates_path(tmp_path, key)
    assert read_baselines(tmp_path, key) == [], "no family of claims"
    document = read_error_rates(tmp_path, key)
    assert document is not None
    assert document["classes"][0]["planted"][-1]["measured_percent"] == pytest.approx(10, abs=0.3)
    page = (tmp_path / "out" / "aa.md").read_text()
    assert error_rates_section(key, tmp_path) in page
    assert "| nvbench&#95;compare |" in page or "| nvbench_compare |" in page
    assert (tmp_path / "out" / "aa.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((tmp_path / "out" / "samples.json").read_text())["classes"][0]["problem"] == "mla/p"


def test_too_few_launches_are_shown_and_not_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], quick: None
) -> None:
    assert run_with(monkeypatch, tmp_path, 3) == 0
    assert "Not stored: 3 launches" in capsys.readouterr().err
    assert not list(tmp_path.rglob("error_rates.json"))
    assert run_with(monkeypatch, tmp_path, 1) == 1


def test_a_pilot_without_times_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise RunError("The pilot launch timed nothing.")

    monkeypatch.setattr(aa, "measure", fail)
    assert aa.run(tmp_path, "cpu", 3) == 1
    assert "Nothing was measured. The pilot launch timed nothing." in capsys.readouterr().err


def test_a_report_says_where_nothing_was_measured(tmp_path: Path) -> None:
    assert error_rates_section("h200", tmp_path) == NOT_MEASURED
    assert "cannot be used" in error_rates_section("../h200", tmp_path)
    path = error_rates_path(tmp_path, "h200")
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    assert "cannot be used" in error_rates_section("h200", tmp_path)


def test_a_file_that_breaks_the_schema_is_not_written(tmp_path: Path, quick: None) -> None:
    one = error_curve.curve("mla/p", "mla/v", "graph_records", launches(12), "cuda")
    device = {"key": "h200", "name": "H200", "kind": "cuda", "arch": "sm_90", "num_sms": 132}
    document = {
        "schema": "kernelgate.error_rates/1", "device": device, "measured_utc": "2026-11-22T00:00:00Z",
        "environment": {"torch": "2", "triton": None, "driver": None}, "simulation": error_curve.conditions(),
        "classes": [one],
    }  # fmt: skip
    with pytest.raises(RecordError, match="unknown"):
        write_error_rates(tmp_path, document | {"more": 1})
    assert write_error_rates(tmp_path, document) == error_rates_path(tmp_path, "h200")
    assert read_error_rates(tmp_path, "h200") == document
    assert re.search(r"(2|3)% at 1(49|50) µs", error_rates_section("h200", tmp_path))
    draw_power(document, tmp_path / "plot.png")
    refused = one["unchanged"] | {"gate": one["unchanged"]["gate"] | {"runs": 0, "regressed": 0}}
    assert error_curve.false_alarms([one | {"unchanged": refused}], 50) == (0.0, 1.0)
    assert "nothing is known of false alarms" in false_alarm_words(
        document | {"classes": [one | {"unchanged": refused}]}
    )
    point = one["planted"][2]
    gap = point | {"gate": point["gate"] | {"regressed": 0.5}}
    broken = [*one["planted"][:2], gap, *one["planted"][3:]]
    assert error_curve.smallest_caught(one | {"planted": broken}) == 5, "not 2%, where 3% is missed"
    assert one["bands"]["d1"] == bands_for("cuda", 150.0).d1
