"""`kernelgate generate` and its workers: what it refuses, how it is ended, and what goes on after that."""

from __future__ import annotations

import os
import signal
import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest

from kernels.discover import load_spaces
from suite.commands import generate as command
from suite.commands.generate import How, run, seconds_of
from suite.device.specs import DeviceError
from suite.generate import evaluate as module
from suite.generate.evaluate import evaluate, executor
from suite.generate.search import Budget
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
        run(PROJECT_ROOT, "nothing", How("h200", "1s"))
    with pytest.raises(RecordError, match="--space none: mla has decode_split_kv"):
        run(PROJECT_ROOT, "mla", How("h200", "1s", space="none"))
    with pytest.raises(DeviceError, match="Did you mean"):
        run(PROJECT_ROOT, "mla", How("h20", "1s"))


def test_ctrl_c_ends_all_spaces_and_resume_begins_those_left(tmp_path, monkeypatch, capsys):
    searched_spaces = []

    def search(root, family, space, folder, budget, how):
        searched_spaces.append(space.what)
        return False

    monkeypatch.setattr(command, "_search", search)
    assert run(PROJECT_ROOT, "kv", How("h200", "1s", run_dir=tmp_path)) == 0
    assert searched_spaces == ["gather"]
    assert "not searched: rope_append, mla_append; --resume" in capsys.readouterr().out


def test_resume_takes_a_space_that_was_not_begun(tmp_path, monkeypatch):
    class Begun(Exception):
        pass

    def begin(folder, header, resume):
        raise Begun(folder.name, resume)

    with pytest.raises(RecordError, match="there is no search of gather"):
        run(PROJECT_ROOT, "kv", How("mi300x", "1s", resume=tmp_path, estimate=True))
    (tmp_path / "gather").mkdir()
    (tmp_path / "gather" / LOG_NAME).touch()
    monkeypatch.setattr(command, "Trials", begin)
    for what, resume in (("gather", True), ("rope_append", False)):
        with pytest.raises(Begun, match=f"{what}.*{resume}"):
            command._search(PROJECT_ROOT, "kv", next(s for s in load_spaces("kv") if s.what == what), tmp_path / what,
                            Budget(1.0), How("mi300x", "1s", resume=tmp_path, estimate=True, jobs=1))  # fmt: skip


def test_an_estimate_of_what_was_measured_is_refused_before_the_search(tmp_path):
    with pytest.raises(RecordError, match="what was only ranked does not replace it"):
        run(PROJECT_ROOT, "kv", How("h200", "60s", run_dir=tmp_path, estimate=True, jobs=1, space="rope_append"))
    assert not list(tmp_path.iterdir())


def test_a_worker_that_dies_fails_its_trial_and_the_next_one_gets_a_fresh_one(monkeypatch):
    with executor(1) as threads:
        assert threads.submit(evaluate, {"op": "echo", "n": 1}).result() == {"n": 1}
        (worker,) = module._STARTED
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
