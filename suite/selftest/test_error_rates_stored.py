"""`kernelgate selftest --aa`: from launches to a file, a page and a plot."""

from __future__ import annotations

import json
import math
import random
import re
from pathlib import Path

import pytest

from suite.commands import aa
from suite.judge import error_curve
from suite.judge.bands import Bands, bands_for
from suite.measure import aa_launches
from suite.measure.aa_kernels import PLANTED_PERCENT
from suite.measure.crew import RunError
from suite.record.baseline import read_baselines
from suite.record.error_rates import error_rates_path, read_error_rates, write_error_rates
from suite.record.schema import RecordError
from suite.report.error_rates import NOT_MEASURED, draw_power, error_rates_section, false_alarm_words

pytestmark = pytest.mark.side_by_side

RNG = random.Random(20_261_122)


def gauss(mean: float, sd: float, launches: int) -> list[float]:
    return [RNG.gauss(mean, sd) for _ in range(launches)]


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


def test_stored_launches_are_judged_by_the_rules_in_force(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], quick: None
) -> None:
    assert run_with(monkeypatch, tmp_path, 12) == 0
    (path,) = tmp_path.glob("baselines/*/selftest/error_rates.json")
    before = json.loads(path.read_text())
    monkeypatch.setattr(error_curve, "bands_for", lambda kind, kernel_us: Bands(0.2, 0.5, k_max=7))
    assert aa.simulate_again(tmp_path, path.parent.parent.name) == 0
    (one,), (other,) = before["classes"], json.loads(path.read_text())["classes"]
    assert (one["scores"], one["unchanged"]["others"]) == (other["scores"], other["unchanged"]["others"])
    assert other["bands"] == {"d0": 0.2, "d1": 0.5, "k_min": 5, "k_max": 7}
    caught = [[point["gate"]["regressed"] for point in each["planted"]][-1] for each in (one, other)]
    assert caught == [1.0, 0.0], "10% slower is within the new bands"
    assert aa.simulate_again(tmp_path / "empty", "cpu") == 1
    assert "No error rates are stored for" in capsys.readouterr().err


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
