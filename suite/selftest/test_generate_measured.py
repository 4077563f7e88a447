"""The measured search, without a GPU: what is asked of one, and what becomes of its answers."""

from __future__ import annotations

import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest

from kernels.discover import problem_key
from suite.device.detect import PROJECT_ROOT
from suite.device.specs import spec_by_key
from suite.generate import timing as module
from suite.generate.emit import Subject, write
from suite.generate.evaluate import NO_DEVICE
from suite.generate.search import UNFIT, Budget, Search
from suite.generate.timing import Timing
from suite.generate.trials import Trials
from suite.selftest.test_generate_search import COST, HEADER, PROBLEMS, SPACE, fake, go, launch

pytest.importorskip("optuna", reason="the extra `generate` brings it")

H200 = spec_by_key("h200")


def compiles(request: dict[str, Any]) -> dict[str, Any]:
    return {"status": "compiled", "cost": COST, "launches": [launch()]}


def timed(request: dict[str, Any]) -> dict[str, Any]:
    """As a GPU answers: four stages do not compile, three are the slowest though estimates like them best."""
    compiled: dict[str, Any] = fake(request)
    if compiled["status"] != "compiled":
        return compiled
    time_us = {2: 80.0, 3: 120.0}.get(request["choice"]["num_stages"], 100.0)
    return compiled | {"status": "measured", "time_us": time_us, "by_hand_us": 100.0, "device_s": 0.25}


def test_times_decide_and_the_manifest_says_that_it_was_measured(tmp_path: Any) -> None:
    trials = Trials(tmp_path / "log", HEADER, resume=False)
    go(Search(SPACE, "mla", H200, PROBLEMS, 0, trials, evaluate=timed, gpus=1), Budget(100.0, 40))
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


MEASURED: dict[str, Any] = {"status": "measured", "time_us": 1.0, "by_hand_us": 2.0}


def gpus(number: int) -> Any:
    return [SimpleNamespace(index=index, name=f"GPU {index}", last_level_cache_bytes=1) for index in range(number)]


@pytest.fixture
def compiling() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as threads:
        yield threads


def compiled(request: dict[str, Any]) -> dict[str, Any]:
    return {"status": "compiled" if request["choice"].get("good", True) else "failed", "cost": {}}


def request(problem: str = "p", **choice: Any) -> dict[str, Any]:
    return {"op": "compile_choice", "problem": problem, "choice": choice}


def test_each_gpu_times_one_choice_at_a_time(monkeypatch: pytest.MonkeyPatch, compiling: ThreadPoolExecutor) -> None:
    busy, together, asked = dict.fromkeys(range(2), 0), [], []

    def serve(request: dict[str, Any], environment: dict[str, str], device: Any) -> dict[str, Any]:
        busy[device.index] += 1
        together.append(max(busy.values()))
        asked.append(request)
        time.sleep(0.01)
        busy[device.index] -= 1
        return MEASURED

    monkeypatch.setattr(module, "serve", serve)
    timing = Timing(compiling, gpus(2), seed=3)
    waiting = [timing.submit(compiled, request(good=n % 5 > 0)) for n in range(20)]
    replies = [future.result(10) for future in waiting]
    timing.shutdown()
    assert [r["status"] for r in replies].count("measured") == 16
    assert set(together) == {1}
    assert all(r["op"] == "measure_choice" and r["seed"] == 3 and r["cache_bytes"] == 1 for r in asked)
    assert all(r["device_s"] >= 0.01 for r in replies if r["status"] == "measured")


def test_a_gpu_stays_with_a_problem_while_it_has_choices_of_it(
    monkeypatch: pytest.MonkeyPatch, compiling: ThreadPoolExecutor
) -> None:
    order, all_wait = [], threading.Event()

    def serve(request: dict[str, Any], environment: dict[str, str], device: Any) -> dict[str, Any]:
        order.append(request["problem"])
        all_wait.wait(10)
        return MEASURED

    monkeypatch.setattr(module, "serve", serve)
    timing = Timing(compiling, gpus(1), seed=0)
    waiting = [timing.time(request("a"))]
    while timing._waiting:
        time.sleep(0.01)
    waiting += [timing.time(request(name)) for name in "bababab"]
    all_wait.set()
    for future in waiting:
        future.result(10)
    timing.shutdown()
    assert order == [*"aaaabbbb"]


def test_choices_compile_while_others_wait_for_the_gpu(
    monkeypatch: pytest.MonkeyPatch, compiling: ThreadPoolExecutor
) -> None:
    """Three times as many as there are processes that compile are ready before the GPU has timed one."""
    ready, gate = threading.Semaphore(0), threading.Event()
    monkeypatch.setattr(module, "serve", lambda request, environment, device: gate.wait(10) and MEASURED)

    def compile_one(request: dict[str, Any]) -> dict[str, Any]:
        ready.release()
        return compiled(request)

    timing = Timing(compiling, gpus(1), seed=0)
    waiting = [timing.submit(compile_one, request(n=n)) for n in range(24)]
    assert all(ready.acquire(timeout=10) for _ in waiting)
    gate.set()
    assert {future.result(10)["status"] for future in waiting} == {"measured"}
    timing.shutdown()


def test_what_is_cancelled_is_not_timed(monkeypatch: pytest.MonkeyPatch, compiling: ThreadPoolExecutor) -> None:
    asked, gate = list[Any](), threading.Event()

    def serve(request: dict[str, Any], environment: dict[str, str], device: Any) -> dict[str, Any]:
        asked.append(request["choice"])
        gate.wait(10)
        return MEASURED

    monkeypatch.setattr(module, "serve", serve)
    timing = Timing(compiling, gpus(1), seed=0)
    first, second, third = (timing.time(request(n=n)) for n in range(3))
    while not asked:
        time.sleep(0.01)
    assert second.cancel()
    gate.set()
    assert first.result(10)["status"] == third.result(10)["status"] == "measured"
    timing.shutdown()
    assert asked == [{"n": 0}, {"n": 2}]


def test_a_gpu_that_cannot_be_had_ends_the_search_and_blames_no_choice(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, compiling: ThreadPoolExecutor
) -> None:
    served = 0

    def serve(request: dict[str, Any], environment: dict[str, str], device: Any) -> dict[str, Any]:
        nonlocal served
        if request["op"] == "prepare_choices":
            return {"status": "ran"}
        served += 1
        if served <= 5:
            return MEASURED
        return {"status": "failed", "reason": NO_DEVICE, "sentence": "GPU 0 could not be had.", "lost": True}

    monkeypatch.setattr(module, "serve", serve)
    timing = Timing(compiling, gpus(1), seed=0)
    trials = Trials(tmp_path, HEADER, resume=False)
    search = Search(SPACE, "mla", H200, PROBLEMS, 0, trials, evaluate=fake, gpus=1)
    ended = go(search, Budget(100.0, 40), timing)
    timing.shutdown()
    trials.close()
    assert (search.status, ended) == (UNFIT, "The device is gone: GPU 0 could not be had. The best so far is kept.")
    results = [r for r in trials.results.values() if r.status == "measured"]
    assert len(results) == 5
    assert "no_device" not in trials.failures()


def test_a_gpu_that_waits_times_the_leaders_again(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, compiling: ThreadPoolExecutor
) -> None:
    """What was fastest once by luck is not fastest in the median; the log says so to whoever resumes."""
    lucky = SPACE.by_hand(PROBLEMS[0], H200.device())
    served: Counter[str] = Counter()

    def serve(request: dict[str, Any], environment: dict[str, str], device: Any) -> dict[str, Any]:
        key = repr(request["choice"])
        served[key] += request["op"] == "measure_choice"
        time_us = (
            9.9 if request["choice"] == lucky and served[key] == 1 else 10.5 if request["choice"] == lucky else 10.0
        )
        return {"status": "measured", "time_us": time_us, "by_hand_us": 10.0}

    monkeypatch.setattr(module, "serve", serve)
    timing = Timing(compiling, gpus(1), seed=0)
    trials = Trials(tmp_path, HEADER, resume=False)
    go(Search(SPACE, "mla", H200, PROBLEMS[:1], 0, trials, evaluate=compiles, gpus=1), Budget(100.0, 6), timing)
    timing.shutdown()
    trials.close()
    again = Trials(tmp_path, HEADER, resume=True)
    again.close()
    for log in (trials, again):
        best = log.best(problem_key(PROBLEMS[0]))
        assert best is not None
        assert best.choice != lucky
        assert log.times(best) > 1
        assert log.device_s == pytest.approx(trials.device_s)
