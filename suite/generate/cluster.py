"""Trials on a Dask cluster: its workers compile and, where they declare a GPU as a resource, time on it.

    CUDA_VISIBLE_DEVICES=0 dask worker tcp://HOST:8786 --nworkers 1 --nthreads 8 --resources GPU=1

One such process for each GPU, started in this project's folder. A worker that is lost costs its own trials only.
"""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from typing import Any

from ..device.detect import choose_all, detect
from ..record.schema import RecordError
from .evaluate import Reply, Request, evaluate
from .timing import Timing

TRIALS_PER_GPU = 8
"""So many trials claim a GPU together: one is timed on it while the others compile."""


@contextmanager
def cluster(
    scheduler: str, gpu: str, seed: int, estimate: bool
) -> Iterator[tuple[Executor, Callable[[Request], Reply], int]]:
    """An executor on the cluster at `scheduler`, what it evaluates a trial with, and how many of `gpu` time trials.

    RecordError where `distributed` is not installed, nobody answers, or a worker's GPU is of another kind.
    """
    with _client(scheduler) as client:
        declared = {} if estimate else _declared_gpus(client, gpu)
        if declared:
            claims = {"GPU": 1 / TRIALS_PER_GPU}
            measured = functools.partial(evaluate_there, gpu=gpu, seed=seed)
            yield client.get_executor(pure=False, retries=0, resources=claims), measured, int(sum(declared.values()))
        else:
            yield client.get_executor(pure=False, retries=0), evaluate, 0


def evaluate_there(request: Request, gpu: str, seed: int) -> Reply:
    """One trial in a worker of the cluster, timed on that worker's own GPU."""
    reply: Reply = _timing(gpu, seed).submit(evaluate, request).result()
    return reply


class _Here(Executor):
    """Compiles in the thread that asks: the cluster has given it one of its own."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        done: Future[Any] = Future()
        done.set_result(fn(*args, **kwargs))
        return done


def own_gpus(gpu: str) -> list[Any]:
    """The GPUs of that kind that this process sees."""
    return [chosen for chosen in choose_all(detect()) if chosen.key == gpu]


def _timing(gpu: str, seed: int) -> Timing:
    with _ONE_BEGINS:
        if (gpu, seed) not in _TIMING:
            _TIMING[gpu, seed] = Timing(_Here(), own_gpus(gpu), seed)
        return _TIMING[gpu, seed]


_ONE_BEGINS = threading.Lock()
_TIMING: dict[tuple[str, int], Timing] = {}


def _declared_gpus(client: Any, gpu: str) -> dict[str, float]:
    """Worker's address -> GPUs that it declares. RecordError where one of them sees no GPU of the kind searched for."""
    workers = client.scheduler_info(n_workers=-1)["workers"]
    declared = {name: worker["resources"]["GPU"] for name, worker in workers.items() if worker["resources"].get("GPU")}
    seen = client.run(own_gpus, gpu, workers=list(declared)) if declared else {}
    without = sorted(name for name, gpus in seen.items() if not gpus)
    if without:
        raise RecordError(
            f"{', '.join(without)} declare a GPU and see no {gpu}. Start them where one is, or add --estimate."
        )
    return declared


def _client(scheduler: str) -> Any:
    try:
        from distributed import Client
    except ImportError as error:
        raise RecordError(
            f"--scheduler {scheduler} needs Dask ({error}): pip install 'kernelgate[cluster]', on every machine."
        ) from None
    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # a scheduler that is gone is told in a sentence
    try:
        return Client(scheduler, timeout="20s")  # type: ignore[no-untyped-call]
    except OSError as error:
        raise RecordError(f"--scheduler {scheduler}: no scheduler answers there ({error}).") from None
