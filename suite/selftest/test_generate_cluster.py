"""The search on a Dask cluster: local, without a GPU, and with GPUs that are pretended."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from suite.commands.generate import How, run
from suite.generate import cluster as clustering
from suite.generate import evaluate as evaluating
from suite.generate import timing
from suite.generate.cluster import cluster
from suite.measure.compile import PROJECT_ROOT
from suite.record.schema import RecordError

distributed = pytest.importorskip("distributed", reason="the extra `cluster` brings it")
pytest.importorskip("optuna", reason="the extra `generate` brings it")

REQUEST = {"op": "compile_choice", "problem": "p", "choice": {}}


@pytest.fixture(scope="module")
def workers() -> Iterator[Any]:
    """A cluster in this process: one worker declares a GPU, the other none."""
    specs = {"with": {"cls": distributed.Worker, "options": {"nthreads": 4, "resources": {"GPU": 1}}},
             "without": {"cls": distributed.Worker, "options": {"nthreads": 4}}}  # fmt: skip
    scheduler = {"cls": distributed.Scheduler, "options": {"dashboard_address": ":0", "port": 0}}
    with distributed.SpecCluster(workers=specs, scheduler=scheduler, silence_logs=50) as local:
        yield local


@pytest.fixture
def pretended(workers: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """That cluster, where what its workers are asked is answered here."""

    def serve(request: dict[str, Any], environment: dict[str, str], device: Any) -> dict[str, Any]:
        if device is None:
            return {"status": "compiled", "cost": {}}
        return {"status": "measured", "time_us": 1.0, "by_hand_us": 2.0, "on": device.index}

    gpu = SimpleNamespace(index=7, key="h200", last_level_cache_bytes=1)
    monkeypatch.setattr(evaluating, "serve", serve)
    monkeypatch.setattr(timing, "serve", serve)
    monkeypatch.setattr(clustering, "_TIMING", {})
    monkeypatch.setattr(clustering, "detect", lambda: None)
    monkeypatch.setattr(clustering, "choose_all", lambda detected: [gpu])
    return workers


def test_workers_that_declare_a_gpu_time_on_it(pretended: Any) -> None:
    with cluster(pretended.scheduler_address, "h200", 0, estimate=False) as (executor, evaluate, gpus):
        assert gpus == 1
        replies = [executor.submit(evaluate, REQUEST | {"choice": {"n": n}}).result(30) for n in range(4)]
    assert [(reply["status"], reply["on"]) for reply in replies] == [("measured", 7)] * 4


def test_an_estimate_asks_for_no_gpu(pretended: Any) -> None:
    with cluster(pretended.scheduler_address, "h200", 0, estimate=True) as (executor, evaluate, gpus):
        assert gpus == 0
        assert executor.submit(evaluate, REQUEST).result(30)["status"] == "compiled"


def test_a_gpu_of_another_kind_is_refused(pretended: Any) -> None:
    with pytest.raises(RecordError, match="see no mi300x"), cluster(pretended.scheduler_address, "mi300x", 0, False):
        pass


def test_nobody_there_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **options: Any) -> None:
        raise OSError("timed out")

    monkeypatch.setattr(distributed, "Client", refuse)
    with pytest.raises(RecordError, match="no scheduler answers there"), cluster("tcp://127.0.0.1:1", "h200", 0, False):
        pass


def test_processes_of_a_cluster_give_the_file_that_threads_here_give(tmp_path: Path) -> None:
    written = []
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0", silence_logs=50) as local:
        for name, scheduler in (("here", ""), ("there", local.scheduler_address)):
            root = tmp_path / name
            shutil.copytree(PROJECT_ROOT / "kernels", root / "kernels", ignore=shutil.ignore_patterns("__pycache__"))
            how = How(
                "mi300x",
                "200s",
                trials=6,
                tier="smoke",
                scheduler=scheduler,
                run_dir=root / "log",
                jobs=1,
                space="gather",
            )
            run(root, ["kv"], how)
            written.append((root / "kernels/kv/generated/mi300x_gather.py").read_text())
    assert written[0] == written[1]
