"""Where trials run: processes of this machine, with its GPUs where they are of the kind; or a Dask cluster."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass

from .cluster import cluster, own_gpus
from .evaluate import Reply, Request, end_workers, evaluate, executor
from .timing import Timing


@dataclass(frozen=True)
class Place:
    """What a search needs of it."""

    executor: Executor
    evaluate: Callable[[Request], Reply]
    """One trial, or of a `Timing` its compilation."""
    gpus: int
    """That time what compiles; where there are none, scores are estimates."""


@contextmanager
def place(gpu: str, scheduler: str, jobs: int | None, seed: int, estimate: bool) -> Iterator[Place]:
    """The place for a search on `gpu`; all that it started ends with it. RecordError where a cluster is of no use."""
    if scheduler:
        with cluster(scheduler, gpu, seed, estimate) as there:
            yield Place(*there)
        return
    with executor(jobs or os.cpu_count() or 1) as compiling:
        chosen = [] if estimate else own_gpus(gpu)
        if not chosen:
            yield Place(compiling, evaluate, 0)
            return
        timing = Timing(compiling, chosen, seed)
        try:
            yield Place(timing, evaluate, len(chosen))
        finally:
            compiling.shutdown(wait=False, cancel_futures=True)
            timing.shutdown(wait=False)
            end_workers()  # whatever is being compiled or timed ends with its worker
            timing.shutdown()
