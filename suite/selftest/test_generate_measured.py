"""The measured search, without a GPU: what is asked of one, and what becomes of its answers."""

from __future__ import annotations

import shutil
import threading
import time
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch

from kernels.device import Device
from kernels.discover import load_problems, problem_key
from kernels.problem import Tier
from suite.device.detect import PROJECT_ROOT
from suite.device.specs import spec_by_key
from suite.device.timer import TimedCall
from suite.generate import evaluate as evaluating
from suite.generate.emit import Subject, write
from suite.generate.evaluate import Measuring
from suite.generate.search import Budget, Search
from suite.generate.trials import Trials
from suite.judge.check import expected_outputs
from suite.measure import choice_times
from suite.measure.choice_times import CALLS, GLANCE, ChoiceBench
from suite.selftest.test_generate_search import HEADER, PROBLEMS, SPACE, Here, fake

pytest.importorskip("optuna", reason="the extra `generate` brings it")

H200 = spec_by_key("h200")


def timed(request: dict[str, Any]) -> dict[str, Any]:
    """As a GPU answers: four stages do not compile, three are the slowest though estimates like them best."""
    compiled: dict[str, Any] = fake(request)
    if compiled["status"] != "compiled":
        return compiled
    time_us = {2: 80.0, 3: 120.0}.get(request["choice"]["num_stages"], 100.0)
    return compiled | {"status": "measured", "time_us": time_us, "by_hand_us": 100.0, "device_s": 0.25}


def test_times_decide_and_the_manifest_says_that_it_was_measured(tmp_path: Any) -> None:
    trials = Trials(tmp_path / "log", HEADER, resume=False)
    Search(SPACE, "mla", H200, PROBLEMS, 0, trials, evaluate=timed, measured=True).run(Here(), Budget(100.0, 40))
    trials.close()
    assert {result.status for result in trials.results.values()} == {"measured", "failed"}
    for problem in PROBLEMS:
        best = trials.best(problem_key(problem))
        assert best is not None
        assert best.score_us == 80.0
        assert best.figures["estimated_us"] > 0
    shutil.copytree(PROJECT_ROOT / "kernels" / "mla", tmp_path / "kernels" / "mla")
    (tmp_path / "kernels" / "mla" / "generated").mkdir(exist_ok=True)
    _, document = write(Subject(tmp_path, "mla", SPACE, H200, PROBLEMS, PROBLEMS, 0, measured=True), trials)
    assert document["measured"] is True
    times = sum(result.status == "measured" for result in trials.results.values())
    assert document["budget_s"]["device"] == pytest.approx(0.25 * times, abs=0.1)


def test_each_gpu_times_one_choice_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: Any = [SimpleNamespace(index=index, last_level_cache_bytes=1) for index in range(2)]
    busy, together, asked = dict.fromkeys(range(2), 0), [], []

    def serve(request: dict[str, Any], environment: dict[str, str], device: Any) -> dict[str, Any]:
        if device is None:
            return {"status": "compiled" if request["choice"]["good"] else "failed", "cost": {}}
        busy[device.index] += 1
        together.append(max(busy.values()))
        asked.append(request)
        time.sleep(0.01)
        busy[device.index] -= 1
        return {"status": "measured", "time_us": 1.0, "by_hand_us": 2.0, "device_s": 0.0}

    monkeypatch.setattr(evaluating, "_serve", serve)
    measuring = Measuring(chosen, seed=3)
    replies: list[dict[str, Any]] = []
    requests = [{"op": "compile_choice", "choice": {"good": n % 5 > 0}} for n in range(20)]
    threads = [threading.Thread(target=lambda r=r: replies.append(measuring(r))) for r in requests]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    measuring.close()
    assert [r["status"] for r in replies].count("measured") == 16
    assert set(together) == {1}
    assert all(r["op"] == "measure_choice" and r["seed"] == 3 and r["cache_bytes"] == 1 for r in asked)


def test_a_gpu_stays_with_a_problem_while_it_has_choices_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    order, first, all_wait = [], threading.Event(), threading.Event()

    def serve(request: dict[str, Any], environment: dict[str, str], device: Any) -> dict[str, Any]:
        if device is None:
            return {"status": "compiled", "cost": {}}
        order.append(request["problem"])
        first.set()
        all_wait.wait(10)
        return {"status": "measured", "time_us": 1.0, "by_hand_us": 2.0, "device_s": 0.0}

    monkeypatch.setattr(evaluating, "_serve", serve)
    measuring = Measuring([SimpleNamespace(index=0, last_level_cache_bytes=1)], seed=0)  # type: ignore[list-item]
    threads = [threading.Thread(target=measuring, args=({"problem": name},)) for name in "abababab"]
    for thread in threads:
        thread.start()
        first.wait(10)  # an `a` is being timed; the others queue up behind it
    while len(measuring._waiting) < len(threads) - 1:
        time.sleep(0.01)
    all_wait.set()
    for thread in threads:
        thread.join()
    measuring.close()
    assert order == [*"aaaabbbb"]


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
