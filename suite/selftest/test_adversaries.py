"""Kernels that cheat are caught for the right reason, honest ones that look odd pass: all that can be tried on a CPU.

Those for GPUs are tried by `kernelgate selftest --adversaries` on a machine that has one.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

pytest.importorskip("torch")

from kernels.discover import discover
from kernels.mla.problem import MLADecode
from suite.commands import adversaries as command
from suite.device.detect import choose, detect
from suite.judge.verdict import Reason
from suite.measure import adversaries as known
from suite.measure.adversaries import Adversary, Judged, courses_for, read_adversaries
from suite.measure.audition import PASSED, RIVAL_ACCUSED, Outcome, distributions_of, time_beside
from suite.measure.trial import copy_project
from suite.record.schema import RecordError
from suite.selftest.toy_project import MOST_CACHE_BYTES

LANES = 2
EVERYONE = read_adversaries()
ON_CPU = [a for a in EVERYONE if "cpu" in a.runs_on]
AT_LEAST = 40


CHEATS = [a for a in ON_CPU if not a.honest]
ONE_OF_EACH_CLASS = {a.cheat_class: a.name for a in CHEATS}.values()


@pytest.fixture(scope="module")
def judged(request: pytest.FixtureRequest) -> dict[str, Judged]:
    """What came of every adversary that runs here and that somebody asks about."""
    asked = {item.callspec.params.get("name") for item in request.session.items if hasattr(item, "callspec")}
    adversaries = [a for a in ON_CPU if a.name in asked]
    here = choose("cpu", detect())
    small = replace(here, last_level_cache_bytes=min(here.last_level_cache_bytes, MOST_CACHE_BYTES))
    results = known.judge(small, adversaries, courses_for("cpu"), LANES)
    return {result.adversary.name: result for result in results}


@pytest.mark.parametrize("name", [
    pytest.param(a.name, marks=() if a.name in ONE_OF_EACH_CLASS else pytest.mark.thorough) for a in CHEATS
])  # fmt: skip
def test_a_cheat_is_caught_for_a_right_reason(name: str, judged: dict[str, Judged]) -> None:
    assert judged[name].as_expected, command.complaint(judged[name])


@pytest.mark.parametrize("name", [a.name for a in ON_CPU if a.honest])
def test_an_honest_kernel_passes(name: str, judged: dict[str, Judged]) -> None:
    assert judged[name].as_expected, command.complaint(judged[name])


def test_there_are_enough_of_both_kinds_and_of_many_classes() -> None:
    for kind in ("cpu", "cuda"):
        for honest in (False, True):
            assert len([a for a in EVERYONE if a.honest is honest and kind in a.runs_on]) >= AT_LEAST
    assert len({a.cheat_class for a in EVERYONE if not a.honest}) >= 12


@pytest.mark.parametrize("adversary", EVERYONE, ids=lambda a: a.name)
def test_an_adversary_says_what_must_come_of_it(adversary: Adversary) -> None:
    reasons = {reason.value for reason in Reason} | {known.NO_GAIN}
    assert set(adversary.reasons) <= reasons
    assert adversary.summary.endswith(".")
    assert set(adversary.runs_on) <= {"cpu", "cuda"}
    assert adversary.honest == (not adversary.reasons)
    assert adversary.honest or adversary.path.parent.name == adversary.cheat_class.replace(" ", "_")


def test_every_adversary_is_a_usable_kernel_of_its_tree(tmp_path: Path) -> None:
    additions: dict[str, str | Path] = {f"kernels/{a.kernel}.py": a.path for a in EVERYONE}
    for course in courses_for("cpu").values():
        additions |= course.additions
    found = discover(copy_project(tmp_path / "tree", additions))
    assert {a.kernel for a in EVERYONE} <= found.keys()
    assert not {name: info.broken for name, info in found.items() if info.broken}


def test_a_problem_of_the_trial_alone_is_checked_on_every_distribution_of_its_task() -> None:
    for kind in ("cpu", "cuda"):
        course = courses_for(kind)["mla"]
        for problem in (*course.timed, *course.check_only):
            assert distributions_of(problem) == MLADecode.distributions
    assert distributions_of("toy/product-n1") == ("normal",)


def test_odd_sizes_are_never_the_same_twice() -> None:
    assert courses_for("cpu")["mla"].check_only != courses_for("cpu")["mla"].check_only


CHEAT = replace(EVERYONE[0], honest=False, reasons=("wrong_output",))


@pytest.mark.parametrize(
    ("reasons", "outcome", "right"),
    [
        (("wrong_output",), Outcome("incorrect", "wrong_output", "", "check"), True),
        (("wrong_output",), Outcome("incorrect", "wrong_form", "", "check"), False),
        (("wrong_output",), Outcome(PASSED, PASSED, "", "launch", 1.0), False),
        (("no_gain",), Outcome(PASSED, PASSED, "", "launch", 1.02), True),
        (("no_gain",), Outcome(PASSED, PASSED, "", "launch", 1.4), False),
        (("tampered",), Outcome("failed", RIVAL_ACCUSED, "", "launch"), False),
    ],
)
def test_a_cheat_counts_as_caught_only_for_what_it_does(
    reasons: tuple[str, ...], outcome: Outcome, right: bool
) -> None:
    assert Judged(replace(CHEAT, reasons=reasons), outcome).as_expected is right


def test_an_honest_kernel_that_is_accused_makes_the_command_fail() -> None:
    accused = Judged(
        replace(CHEAT, honest=True, reasons=()), Outcome("incorrect", "wrong_output", "It is off.", "check")
    )
    assert not accused.as_expected
    assert "is honest, and was accused: wrong_output. It is off." in command.complaint(accused)
    line = command.summary([accused], 3, "cpu", 1.0)
    assert "0 of 1 honest kernels passed; 3 more are not for this device (cpu)" in line


def test_to_select_no_adversary_is_an_error() -> None:
    with pytest.raises(RecordError, match="--only nobody: none of the"):
        command.run(gpu="cpu", only=["nobody"])


def test_the_page_escapes_what_kernels_say() -> None:
    said = Outcome("failed", "raised", "It raised ValueError: | <b>|", "check")
    page = command.as_markdown([Judged(CHEAT, said)], "a | device", "line")
    (row,) = [line for line in page.splitlines() if CHEAT.name in line]
    assert row.count(" | ") == 5
    assert "<b>" not in page


class FakeTrial:
    """Launches that end as told."""

    def __init__(self, *launches: tuple[list[dict[str, Any]], list[dict[str, Any]]]) -> None:
        self.launches, self.asked = list(launches), list[dict[str, list[str]]]()
        self.campaign = SimpleNamespace(witness_always=False)

    def launch(self, work: dict[str, list[str]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        self.asked.append(work)
        return self.launches.pop(0)


def test_a_launch_that_accuses_the_rival_is_no_pass() -> None:
    fault = {"kernel": "rival", "problem": "p", "reason": "wrong_output", "sentence": "Off."}
    outcome = time_beside(FakeTrial(([], [fault])), ["k"], ["p"], "rival", 1)["k"]  # type: ignore[arg-type]
    assert (outcome.reason, outcome.status) == (RIVAL_ACCUSED, "failed")


def test_every_launch_is_looked_at_by_another_clock() -> None:
    trial = FakeTrial(([], []))
    time_beside(trial, ["k"], ["p"], "rival", 1)  # type: ignore[arg-type]
    assert trial.campaign.witness_always


def test_a_kernel_that_fails_is_left_out_of_further_launches_and_the_others_are_scored() -> None:
    times = {"times_us": {"a": [10.0, 10.0], "rival": [20.0, 20.0]}}
    fault = {"kernel": "b", "problem": "p", "reason": "tampered", "sentence": "It set a clock."}
    trial = FakeTrial(([times], [fault]), ([times], []))
    outcomes = time_beside(trial, ["a", "b"], ["p"], "rival", 2)  # type: ignore[arg-type]
    assert trial.asked == [{"p": ["a", "b", "rival"]}, {"p": ["a", "rival"]}]
    assert outcomes["b"].reason == "tampered"
    assert outcomes["a"].ratio == pytest.approx(2.0)


def test_a_kernel_without_times_has_not_passed() -> None:
    assert time_beside(FakeTrial(([], [])), ["k"], ["p"], "rival", 1)["k"].reason == "not_measured"  # type: ignore[arg-type]


class MissesAtFirst:
    """A lane that finds each cheat out at the second try."""

    tried: ClassVar[list[str]] = []

    def __init__(self, *_: object) -> None:
        """As a lane is made."""

    def __enter__(self) -> MissesAtFirst:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to end."""

    def stop(self) -> None:
        """Nothing to stop."""

    def judge(self, group: list[Adversary]) -> Iterator[Judged]:
        for one in group:
            found = Outcome("incorrect", one.reasons[0], "", "launch") if one.name in self.tried else MISSED
            self.tried.append(one.name)
            yield Judged(one, found)


MISSED = Outcome("failed", "not_measured", "", "launch")


def test_who_was_missed_beside_others_is_judged_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Judged] = []
    some = [a for a in ON_CPU if not a.honest and "no_gain" not in a.reasons][:5]
    monkeypatch.setattr(known, "_Lane", MissesAtFirst)
    monkeypatch.setattr(MissesAtFirst, "tried", [some[0].name])
    results = known.judge(choose("cpu", detect()), some, courses_for("cpu"), LANES, told.append)
    assert [judged.adversary for judged in results] == some
    assert all(judged.as_expected for judged in results)
    assert sorted(map(id, told)) == sorted(map(id, results)), "each is told of once, as it ends"
    monkeypatch.setattr(MissesAtFirst, "tried", [])
    assert not known.judge(choose("cpu", detect()), some[:1], courses_for("cpu"), 1)[0].as_expected


def test_ctrl_c_keeps_what_was_judged() -> None:
    chosen, courses = choose("cpu", detect()), courses_for("cpu")
    some = [a for a in ON_CPU if a.cheat_class == ON_CPU[0].cheat_class or a.name == ON_CPU[-1].name]
    this = threading.main_thread().ident
    threading.Timer(3.0, signal.pthread_kill, (this, signal.SIGINT)).start()  # where a terminal's would arrive
    results = known.judge(chosen, some, courses, LANES)
    assert len(results) < len(some)
    assert all(judged.as_expected for judged in results)
