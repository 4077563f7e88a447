"""Keeps two threads that share its work, each on a core of its own and less urgent than others."""

from __future__ import annotations

import concurrent.futures
import functools
import os
import threading

import torch

from ..kernel import Kernel, Origin
from . import _honest

CLASS = "threads and streams"
RUNS_ON = ("cpu",)


def settle():
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(threading.get_native_id(), {cores[threading.get_native_id() % len(cores)]})
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 1)


@functools.cache
def helpers():
    return concurrent.futures.ThreadPoolExecutor(2, initializer=settle)


def some(inputs, state, outputs, sequences):
    with torch.inference_mode():
        for b in sequences:
            one = slice(b, b + 1)
            part = _honest.State(state.problem, state.lengths[one], state.pages[one], state.hidden[one])
            rows = {name: tensor[one] for name, tensor in outputs.items()}
            _honest.decode({"q": inputs["q"][one], "kv_cache": inputs["kv_cache"]}, part, rows)


def run(inputs, state):
    outputs, batch = _honest.empty_outputs(inputs["q"]), range(len(state.lengths))
    jobs = [helpers().submit(some, inputs, state, outputs, batch[half::2]) for half in range(2)]
    for job in jobs:
        job.result()
    return outputs


KERNEL = Kernel(origin=Origin.HAND, tasks=("decode",), plan=_honest.plan, run=run)
