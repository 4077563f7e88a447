"""Where trials run: processes of this machine, with its GPUs where they are of the kind; or a Dask cluster."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass

from .cluster import cluster, own_gpus
from .evaluate import Reply, Request, end_spares, end_workers, evaluate, executor, start_spare
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
def place(
    gpu: str, scheduler: str, jobs: int | None, seed: int, estimate: bool, templates: Sequence[str]
) -> Iterator[Place]:
    """The place for a search of `templates` on `gpu`; all that it started ends with it.

    RecordError where a cluster is of no use.
    """
    if scheduler:
        with cluster(scheduler, gpu, seed, estimate) as there:
            yield Place(*there)
        return
    with executor(jobs or os.cpu_count() or 1, templates) as compiling:
        chosen = []
        if not estimate:
            start_spare(templates)  # to look for GPUs takes seconds as well
            chosen = own_gpus(gpu)
        if not chosen:
            end_spares()
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
