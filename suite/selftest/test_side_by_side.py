"""Cases checked at once, each lane with workers of its own, on the CPU."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kernels.discover import load_problems, problem_key
from suite.device.detect import choose, detect
from suite.measure.campaign import Campaign
from suite.measure.crew import RunError
from suite.measure.trial import Trial, trial
from suite.selection import Case
from suite.side_by_side import check_side_by_side, lanes_for

RIGHT, WRONG = "kv/torch_index", "kv/wrong"
SPOIL = """
from ..kernel import Kernel
from .torch_index import KERNEL as RIGHT


def run(inputs, state):
    return {name: output + 1 for name, output in RIGHT.run(inputs, state).items()}


KERNEL = Kernel(origin="vendor", tasks=("gather",), run=run, plan=RIGHT.plan)
"""
GATHERS = [problem_key(p) for p in load_problems("kv")[1] if p.task == "gather"][:3]


@pytest.fixture(scope="module")
def toy() -> Iterator[Trial]:
    with trial(choose("cpu", detect()), {"kernels/kv/wrong.py": SPOIL}, seed=1) as toy:
        yield toy


def ask(lane: Campaign, case: Case) -> None:
    lane.check(case.kernel, case.problem, "normal")


def silent(text: str) -> None:
    pass


def of_problem(case: Case) -> str:
    return case.problem


def cases(toy: Trial, *kernels: str) -> list[Case]:
    return [Case(toy.kernels[kernel], problem) for kernel in kernels for problem in GATHERS]


def test_lanes_find_what_one_worker_finds_alone(toy: Trial) -> None:
    alone = [toy.check(RIGHT, problem) for problem in GATHERS]
    toy.notebook.events.clear()
    check_side_by_side(toy.campaign, cases(toy, RIGHT), 2, ask, silent, of_problem)
    together = sorted(toy.notebook.events, key=lambda event: GATHERS.index(event["problem"]))
    assert together == [{"event": "check"} | check for check in alone]
    assert {check["status"] for check in alone} == {"correct"}


def test_what_goes_wrong_in_company_is_not_recorded(toy: Trial) -> None:
    toy.notebook.events.clear()
    check_side_by_side(toy.campaign, cases(toy, WRONG, RIGHT), 2, ask, silent, of_problem)
    assert [event["kernel"] for event in toy.notebook.events] == [RIGHT] * len(GATHERS)
    assert toy.check(WRONG, GATHERS[0])["status"] == "incorrect"  # asked alone, it is blamed


def test_what_ends_one_lane_ends_all(toy: Trial) -> None:
    seen: list[Campaign] = []

    def lose_the_device(lane: Campaign, case: Case) -> None:
        seen.append(lane)
        ask(lane, case)
        raise RunError("The device fell off the bus.")

    with pytest.raises(RunError, match="fell off the bus"):
        check_side_by_side(toy.campaign, cases(toy, RIGHT), 2, lose_the_device, silent, of_problem)
    assert seen
    assert not any(lane.crew.pids()[1:] or lane.scratch.exists() for lane in seen)


def test_ctrl_c_ends_what_is_under_way_and_records_no_failure(toy: Trial) -> None:
    toy.notebook.events.clear()

    def interrupt(text: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        check_side_by_side(toy.campaign, cases(toy, RIGHT), 2, ask, interrupt, of_problem)
    assert all(event["status"] == "correct" for event in toy.notebook.events)


@pytest.mark.parametrize(("cores", "cases", "kind", "lanes"), [
    (2, 100, "cpu", 2), (64, 100, "cpu", 4), (2, 100, "cuda", 1), (16, 100, "hip", 4), (16, 9, "cuda", 2),
    (16, 3, "cuda", 1), (1, 100, "cpu", 1),
])  # fmt: skip
def test_lanes_are_as_many_as_pay(
    cores: int, cases: int, kind: str, lanes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: cores)
    assert lanes_for(cases, kind) == lanes
