"""What was measured is never lost nor measured twice: SIGKILL, Ctrl-C and a full disk in mid-run, then --resume."""

from __future__ import annotations

import itertools
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from suite.selftest.fault_scenarios import DISK
from suite.selftest.toy_project import Outcome, ToyProject, faulty

Events = list[dict[str, Any]]
ARGUMENTS = ("--tier", "ci", "-m", "toy")
PROBLEMS = ("toy/product-n512", "toy/product-n640")
DEADLINE_S = 60

FULL_DISK = DISK.format(code="ENOSPC")
CUT = """
import itertools, os, signal
from suite.record.journal import Journal

extend, measured = Journal.extend, itertools.count(1)

def extend_and_cut(self, events):
    events = list(events)
    extend(self, events)
    if any(e["event"] == "measurement" and next(measured) == {measurements} for e in events):
        os.kill(os.getpid(), signal.{how})

Journal.extend = extend_and_cut
"""
"""For conftest.py: sent from within, since a test that watches from outside may look too late."""


def measured(events: Events) -> list[tuple[str, str]]:
    return [(e["launch"], e["problem"]) for e in events if e["event"] == "measurement"]


def checked(events: Events) -> Counter[tuple[str, ...]]:
    """How often each case was checked, before timing."""
    names = ("kernel", "problem", "distribution")
    return Counter(tuple(e[n] for n in names) for e in events if e["event"] == "check" and e["stage"] == "correctness")


def cut_off(project: ToyProject, measurements: int, how: signal.Signals) -> Outcome:
    """Go on with the run, which gets a signal as soon as so many more measurements are on disk."""
    conftest = project.add_to_conftest(CUT.format(measurements=measurements, how=how.name))
    outcome = project.pytest(*ARGUMENTS, "--resume", "runs/cut")
    (project.root / "conftest.py").write_text(conftest)
    deadline = time.monotonic() + DEADLINE_S
    while project.worker_pids():
        assert time.monotonic() < deadline, "a worker outlives its run"
        time.sleep(0.02)
    return outcome


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> ToyProject:
    return ToyProject.make(tmp_path_factory.mktemp("resume"), k_min=3)


@pytest.fixture(scope="module")
def stages(project: ToyProject) -> dict[str, tuple[Outcome, Events]]:
    """One run of three launches by two problems, cut off by a full disk, SIGKILL and Ctrl-C, then let be."""
    conftest = project.add_to_conftest(FULL_DISK)
    found = {"full": (project.pytest(*ARGUMENTS, "--run-dir", "runs/cut"), project.events("cut"))}
    (project.root / "conftest.py").write_text(conftest)
    found["killed"] = (cut_off(project, 2, signal.SIGKILL), project.events("cut"))
    assert not (project.root / "runs/cut/run.json").exists()
    found["interrupted"] = (cut_off(project, 1, signal.SIGINT), project.events("cut"))
    assert project.run("cut")["exit_status"] == 2
    found["done"] = (project.pytest(*ARGUMENTS, "--resume", "runs/cut"), project.events("cut"))
    return found


def test_a_full_disk_ends_the_run_with_a_sentence(project: ToyProject, stages: Any) -> None:
    outcome, events = stages["full"]
    assert outcome.status == 3, outcome.text
    text = " ".join(outcome.text.split())
    assert "journal.jsonl: cannot be written (No space left on device). Nothing before it is lost" in text
    assert f"--resume {project.root / 'runs/cut'}" in text
    assert "Traceback" not in text
    assert "INTERNALERROR" not in text
    assert [e["event"] for e in events].index("measurement") == len(events) - 1


def test_each_cut_leaves_a_journal_that_is_gone_on_with(stages: Any) -> None:
    killed, _ = stages["killed"]
    assert killed.status == -signal.SIGKILL
    journals = [events for _, events in stages.values()]
    for events, later in itertools.pairwise(journals):
        assert later[: len(events)] == events
        assert len(measured(later)) > len(measured(events))


def test_ctrl_c_is_exit_2_with_a_record_and_a_way_on(project: ToyProject, stages: Any) -> None:
    interrupted, events = stages["interrupted"]
    assert interrupted.status == 2, interrupted.text
    assert "INTERNALERROR" not in interrupted.text
    assert f"--resume {project.root / 'runs/cut'}" in " ".join(interrupted.text.split())
    assert events[-1]["event"] == "end"
    assert events[-1]["exit_status"] == 2


def test_the_resumed_run_measures_nothing_twice(project: ToyProject, stages: Any) -> None:
    done, events = stages["done"]
    assert done.status == 0, done.text
    pairs = measured(events)
    assert len(pairs) == len(set(pairs)) == 6
    run_id = events[0]["run_id"]
    assert set(pairs) == {(f"{run_id}/{index}", problem) for index in (1, 2, 3) for problem in PROBLEMS}
    assert set(checked(events).values()) == {1}
    assert len(checked(events)) == 6  # three kernels by two problems
    run = project.run("cut")
    assert all(launch["complete"] for launch in run["launches"])
    assert {v["launches"] for v in run["verdicts"]} == {3}
    assert run["exit_status"] == 0


def test_other_code_is_not_resumed(project: ToyProject, stages: Any) -> None:
    project.write_kernel("later", "import torch\n")
    outcome = project.pytest(*ARGUMENTS, "--resume", "runs/cut")
    (project.root / "kernels/toy/later.py").unlink()
    assert outcome.status == 4, outcome.text
    assert "cannot be resumed, its code (hash of kernels/ and suite/) was" in " ".join(outcome.text.split())
    assert "Traceback" not in outcome.text
    assert (project.root / "runs/cut/run.json").exists()


def test_no_kernel_is_blamed_for_a_full_disk(project: ToyProject) -> None:
    project.write_kernel("full", faulty('raise OSError(28, "No space left on device")'))
    conftest = project.add_to_conftest("from suite.measure import crew\ncrew.has_room = lambda folder: False\n")
    outcome = project.pytest("--run-dir", "runs/blame", "-k", "full", "suite/test_correctness.py")
    (project.root / "conftest.py").write_text(conftest)
    (project.root / "kernels/toy/full.py").unlink()
    assert outcome.status == 3, outcome.text
    assert "The run cannot go on." in outcome.text
    assert "Make room" in outcome.text
    assert "Traceback" not in outcome.text
    assert project.run("blame")["checks"] == []


def test_nothing_of_a_killed_run_stays_in_memory(stages: Any) -> None:
    _, events = stages["done"]
    assert not list(Path("/dev/shm").glob(f"kernelgate-{events[0]['run_id']}*"))
