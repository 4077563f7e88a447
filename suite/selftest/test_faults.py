"""Every fault that a kernel can have costs its own case only, and is told in a sentence: one run of the toy project."""

from __future__ import annotations

from typing import Any

import pytest

from suite.judge.verdict import Reason
from suite.selftest.fault_catalogue import SOUND, SOUND_SOURCES, faults_of, limits
from suite.selftest.toy_project import Outcome, ToyProject

FAULTS = faults_of("cpu")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> ToyProject:
    sources = {name: fault.source for name, fault in FAULTS.items()} | SOUND_SOURCES
    project = ToyProject.make(tmp_path_factory.mktemp("faults"), sources)
    project.add_to_conftest(limits("cpu"))
    return project


@pytest.fixture(scope="module")
def outcome(project: ToyProject) -> Outcome:
    return project.pytest("-m", "toy", "--run-dir", "runs/all")


@pytest.fixture(scope="module")
def run(project: ToyProject, outcome: Outcome) -> dict[str, Any]:
    return project.run("all")


def test_the_run_ends_red_with_no_traceback_and_no_process_left(project: ToyProject, outcome: Outcome) -> None:
    assert outcome.status == 1, outcome.text
    assert "Traceback" not in outcome.text
    assert "INTERNALERROR" not in outcome.text
    assert "suite/bench.py" not in outcome.text
    assert project.worker_pids() == []


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_told_in_a_sentence(name: str, run: dict[str, Any], outcome: Outcome) -> None:
    fault = FAULTS[name]
    verdict = next(v for v in run["verdicts"] if v["kernel"] == f"toy/{name}")
    assert (verdict["status"], verdict["reason"]) == (fault.status, fault.reason), verdict
    assert Reason(fault.reason)
    assert fault.words in verdict["sentence"]
    assert verdict["sentence"].isprintable()
    if name not in ("requires", "vendor_wrong"):
        assert f"FAILED suite/test_speedup.py::test_speedup[toy/{name}-product-n512]" in outcome.text


@pytest.mark.parametrize("name", [name for name in FAULTS if not name.startswith("late")])
def test_what_is_wrong_is_never_timed(name: str, run: dict[str, Any]) -> None:
    assert not any(f"toy/{name}" in m["times_us"] for launch in run["launches"] for m in launch["measurements"])


@pytest.mark.parametrize("name", SOUND)
def test_the_other_kernels_are_measured_in_every_launch(name: str, run: dict[str, Any]) -> None:
    assert [check["status"] for check in run["checks"] if check["kernel"] == name and check["stage"] == "timed"]
    assert all(check["status"] == "correct" for check in run["checks"] if check["kernel"] == name)
    assert len(run["launches"]) == 2
    for launch in run["launches"]:
        (measurement,) = launch["measurements"]
        assert len(measurement["times_us"][name]) >= 10
    verdict = next(v for v in run["verdicts"] if v["kernel"] == name)
    assert (verdict["status"], verdict["launches"]) == ("unclaimed", 2)


def test_a_wrong_library_is_reported_and_is_not_red(run: dict[str, Any], outcome: Outcome) -> None:
    assert "2 xfailed" in outcome.text
    assert not any(v["rival"] == "toy/vendor_wrong" for v in run["verdicts"])
