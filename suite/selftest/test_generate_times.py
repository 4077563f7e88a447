"""What a worker on a GPU does with a choice: whether it is right, how often it is timed, whose inputs are kept."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch

from kernels.device import Device
from kernels.discover import load_problems
from kernels.problem import Tier
from suite.device.timer import TimedCall
from suite.judge.check import expected_outputs
from suite.measure import choice_times
from suite.measure.choice_times import CALLS, GLANCE, ChoiceBench, measure_choice, prepare_choices


class Timer:
    """Calls at once; a call's time is what its output says."""

    asked: ClassVar[list[int]] = []

    def prepare(self, call: TimedCall) -> None:
        call.outputs = call.run()
        call.replay = lambda: self.replay(call)

    def replay(self, call: TimedCall) -> None:
        for name, output in call.run().items():
            call.outputs[name].copy_(output)

    def measure(self, steps: Any) -> list[float]:
        calls = [step.call for step in steps]
        Timer.asked.append(len(calls))
        return [call.run.keywords["us"] for call in calls]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ChoiceBench:
    monkeypatch.setattr(choice_times, "GraphRecords", Timer)
    Timer.asked = []
    problem = next(p for p in load_problems("gemm")[0][Tier.SMOKE] if p.task == "linear")
    inputs = problem.make_inputs(0, "cpu", "normal")
    right = expected_outputs(problem, inputs)["out"].to(torch.bfloat16)

    def run(inputs: Any, state: dict[str, Any], us: float = 0.0) -> dict[str, torch.Tensor]:
        return {"out": right.clone() if state["right"] else torch.zeros_like(right)}

    kernel: Any = SimpleNamespace(run=run, output_factors={})
    space: Any = SimpleNamespace(planned=lambda problem, choice, inputs, device: choice)
    cpu, expected = Device("cpu", "x86_64", 2, 0, 1, None), {"out": right.float()}
    made = ChoiceBench(problem, space, kernel, cpu, inputs, expected, before=lambda: None)

    def prepared(choice: Any) -> TimedCall:
        call = ChoiceBench.prepared(made, choice)
        call.run.keywords["us"] = choice["us"]  # type: ignore[attr-defined]
        return call

    made.prepared = prepared  # type: ignore[method-assign]
    made.by_hand = prepared({"right": True, "us": 10.0})
    return made


def test_a_choice_is_checked_then_glanced_at_then_timed(bench: ChoiceBench) -> None:
    assert bench.measure({"right": True, "us": 8.0}) == {"status": "measured", "time_us": 8.0, "by_hand_us": 10.0}
    assert Timer.asked == [2 * GLANCE, 2 * CALLS]


def test_one_that_is_far_behind_is_only_glanced_at(bench: ChoiceBench) -> None:
    assert bench.measure({"right": True, "us": 30.0})["time_us"] == 30.0
    assert Timer.asked == [2 * GLANCE]


def test_a_wrong_one_is_not_timed(bench: ChoiceBench) -> None:
    reply = bench.measure({"right": False, "us": 1.0})
    assert (reply["status"], reply["reason"]) == ("failed", "wrong_output")
    assert not Timer.asked


@pytest.fixture
def benches(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Benches that take a fifth of a device's memory each."""
    made: list[str] = []

    def on(problem: str) -> Any:
        made.append(problem)
        if len(choice_times._BENCHES) == 5:
            raise torch.cuda.OutOfMemoryError("no room")
        return SimpleNamespace(measure=lambda choice: choice(problem))

    monkeypatch.setattr(choice_times, "_BENCHES", {})
    monkeypatch.setattr(choice_times.ChoiceBench, "on", on)
    monkeypatch.setattr(choice_times, "_memory_share", lambda: len(choice_times._BENCHES) / 5)
    return made


def named(problem: str) -> dict[str, Any]:
    return {"on": problem}


def test_inputs_of_several_problems_are_kept_while_there_is_room(benches: list[str]) -> None:
    for problem in "abab":
        assert measure_choice(named, problem=problem) == {"on": problem}  # type: ignore[arg-type]
    assert benches == ["a", "b"]
    for problem in "cad":
        measure_choice(named, problem=problem)  # type: ignore[arg-type]
    assert benches == ["a", "b", "c", "d"]
    assert [json.loads(key)["problem"] for key in choice_times._BENCHES] == ["c", "a", "d"], "the oldest is forgotten"


def test_memory_that_others_keep_is_no_fault_of_a_choice(benches: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice_times, "_memory_share", lambda: 0.0)
    for problem in "abcdef":  # there is no room for the sixth before the first is forgotten
        measure_choice(named, problem=problem)  # type: ignore[arg-type]
    assert len(choice_times._BENCHES) == 5

    def hungry(problem: str) -> dict[str, Any]:
        if len(choice_times._BENCHES) > 1:
            raise torch.cuda.OutOfMemoryError("no room")
        return named(problem)

    assert measure_choice(hungry, problem="f") == {"on": "f"}  # type: ignore[arg-type]
    assert len(choice_times._BENCHES) == 1


def test_inputs_are_made_ahead_as_far_as_there_is_room(benches: list[str]) -> None:
    for problem in "abcd":
        assert prepare_choices({}, problem=problem) == {"status": "ran"}
    assert benches == ["a"]
