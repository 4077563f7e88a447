"""`kernelgate generate` and its workers: what it refuses, how it is ended, and what goes on after that."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest

from suite.commands import generate as command
from suite.commands.generate import How, run, seconds_of
from suite.device.specs import DeviceError
from suite.generate import evaluate as module
from suite.generate.evaluate import evaluate, executor
from suite.generate.search import INTERRUPTED, Search
from suite.generate.trials import LOG_NAME
from suite.measure.compile import PROJECT_ROOT
from suite.measure.process import WorkerError
from suite.record.schema import RecordError

pytest.importorskip("optuna", reason="the extra `generate` brings it")


def test_budgets():
    assert [seconds_of(text) for text in ("90s", "1.5m", "2h")] == [90, 90, 7200]
    with pytest.raises(RecordError, match="90s, 5m or 1h"):
        seconds_of("5 minutes")


def test_what_cannot_be_searched_is_a_sentence(tmp_path):
    with pytest.raises(RecordError, match="no such family"):
        run(PROJECT_ROOT, ["nothing"], How("h200", "1s"))
    with pytest.raises(
        RecordError, match=r"none: mla has no such space or task for h200; it has decode_split_kv \(decode\)"
    ):
        run(PROJECT_ROOT, ["mla"], How("h200", "1s", space="none"))
    with pytest.raises(DeviceError, match="Did you mean"):
        run(PROJECT_ROOT, ["mla"], How("h20", "1s"))


@pytest.fixture
def searched(tmp_path, monkeypatch):
    """Searches end at once, as the test says; kernels are not written."""
    began: list[Any] = []
    ends: dict[str, int] = {}

    class Here:
        executor, evaluate, gpus = None, None, 0

    def begin(search, executor, budget):
        began.append((f"{search.family}/{search.space.what}", round(budget.wall_s)))

    def ended(search):
        search.status, search.took_s = ends.get(search.space.what, 0), 1.0
        return "So it ended."

    monkeypatch.setattr(command, "place", lambda *arguments: contextlib.nullcontext(Here))
    monkeypatch.setattr(command, "refuse_unwritable", lambda subject: None)
    monkeypatch.setattr(Search, "begin", begin)
    monkeypatch.setattr(Search, "run", ended)
    return SimpleNamespace(began=began, ends=ends)


def test_several_families_share_one_budget(searched, tmp_path, capsys):
    wanted = ["kv/rope", "moe/router", "kv/gather", "kv/rope_append"]
    assert run(PROJECT_ROOT, wanted, How("mi300x", "31s", run_dir=tmp_path)) == 1
    assert searched.began == [("kv/rope_append", 10), ("moe/router", 15), ("kv/gather", 29)]
    assert "Not one choice of kv/triton_rope_append ran" in capsys.readouterr().err


def test_ctrl_c_ends_all_spaces_and_resume_begins_those_left(searched, tmp_path, capsys):
    searched.ends["gather"] = INTERRUPTED
    assert run(PROJECT_ROOT, ["kv"], How("mi300x", "31s", run_dir=tmp_path)) == INTERRUPTED
    assert [name for name, _ in searched.began] == ["kv/gather"]
    assert "not searched: kv/rope_append, kv/mla_append; --resume" in capsys.readouterr().out
    searched.ends.clear()
    (tmp_path / "kv-mla_append" / LOG_NAME).unlink()
    run(PROJECT_ROOT, ["kv"], How("mi300x", "31s", resume=tmp_path))
    assert [name for name, _ in searched.began[1:]] == ["kv/gather", "kv/rope_append", "kv/mla_append"]


def test_resume_of_nothing_is_a_sentence(tmp_path):
    with pytest.raises(RecordError, match="there is no search of kv/gather, kv/rope_append"):
        run(PROJECT_ROOT, ["kv"], How("mi300x", "1s", resume=tmp_path, estimate=True))


def test_sigterm_keeps_the_best_too(searched, tmp_path, monkeypatch):
    def ended(search):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)
        except KeyboardInterrupt:
            search.status = INTERRUPTED
        return "It was interrupted."

    monkeypatch.setattr(Search, "run", ended)
    assert run(PROJECT_ROOT, ["kv"], How("mi300x", "1s", run_dir=tmp_path)) == command.TERMINATED


def test_an_estimate_of_what_was_measured_is_refused_before_the_search(tmp_path):
    with pytest.raises(RecordError, match="what was only ranked does not replace it"):
        run(PROJECT_ROOT, ["kv"], How("h200", "60s", run_dir=tmp_path, estimate=True, jobs=1, space="rope_append"))
    assert not list(tmp_path.iterdir())


def test_a_worker_that_dies_fails_its_trial_and_the_next_one_gets_a_fresh_one(monkeypatch):
    with executor(1) as threads:
        assert threads.submit(evaluate, {"op": "echo", "n": 1}).result() == {"n": 1}
        (worker,) = module._STARTED  # the one that imports what is slow to import
        os.kill(worker.pid, signal.SIGKILL)
        lost = threads.submit(evaluate, {"op": "echo", "n": 2}).result()
        assert (lost["status"], lost["reason"]) == ("failed", WorkerError("out_of_memory", "").reason)
        assert threads.submit(evaluate, {"op": "echo", "n": 3}).result() == {"n": 3}
    assert not module._STARTED


def test_no_request_that_waits_is_begun_while_workers_end(monkeypatch):
    ended, begun = threading.Event(), list[bool]()

    def end(*arguments):
        ended.set()
        time.sleep(0.2)

    monkeypatch.setattr(os, "killpg", end)
    worker: Any = SimpleNamespace(pid=0, kill=lambda: None)
    with executor(1) as threads:
        threads.submit(ended.wait, 10)
        threads.submit(begun.append, True)
        module._STARTED.append(worker)
    assert not begun
