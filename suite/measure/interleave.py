"""In the worker: measure all kernels of one problem in one launch, and see that none of them did harm."""

from __future__ import annotations

import contextlib
import functools
import gc
import random
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kernels import discover
from kernels.device import Device
from kernels.kernel import Kernel
from kernels.problem import Inputs, Problem

from ..device.device_records import OutsideWorkError
from ..device.timer import TimedCall
from .blame import blamed, culprit
from .caches import flush_and_touch
from .contestant import Contestant
from .drawn import InputsChangedError
from .execute import WrongFormError, failure, fixed_checksums, handles, plan_inputs, synchronize, why_not
from .footing import Footing, footing
from .helpers import HELPERS
from .possessions import left_alone
from .sequence import Ask
from .session import Session
from .stopwatch import Stopwatch
from .tampering import Snapshot, Tampered, import_ahead, keeps_computing, load_watched, module_of, untouched
from .thread_pools import settle_libraries

HARM: dict[type[Exception], str] = {
    Tampered: "tampered",
    OutsideWorkError: "outside_interval",
    InputsChangedError: "inputs_changed",
    WrongFormError: "wrong_form",
}
"""What a timed call did to others -> reason code."""
ROTATIONS = 2
"""Kernels are captured twice, so that outputs and workspaces rotate between two places of memory."""
HOST_CALLS = 5


@dataclass(frozen=True)
class Request:
    """What one launch measures of one problem."""

    problem: str
    kernels: list[str]
    libraries: list[str]
    """Kernels of vendors among them: see `tampering.untouched`."""
    device: dict[str, Any]
    cache_bytes: int
    seed: int
    max_blocks: int
    budget_s: float
    output_dir: str
    witnessed: list[str]
    """Kernels whose calls the parent times by its own clock as well."""


def measure_problem(ask: Ask, **fields: Any) -> dict[str, Any]:
    """All blocks of one problem (fields: `Request`). Returns {measurements, kept, failures, cost, phases_s}.

    Each measurement has one timer: graph records where the call can be captured, and where any cannot, a second one of
    all kernels by queued events, so that kernel and rival are always timed the same way. What harms the process that
    all kernels share is a status of its own: whose doing it was, the parent finds out by measuring each alone.
    """
    request = Request(**fields)
    target, case = Device(**request.device), discover.load_problem(request.problem)
    phases_s: dict[str, float] = {}
    with torch.inference_mode():
        with Stopwatch(phases_s, "inputs"):
            inputs = case.make_inputs(request.seed, target.torch_name)
            before = flush_and_touch(case, inputs, target.torch_name, request.cache_bytes)
            synchronize(target.torch_name)
        with Stopwatch(phases_s, "prepare"):
            changing: set[str] = set()
            if target.kind == "cpu":
                settle_libraries()
            _load_libraries(request, case, target)
            stand = footing() if target.kind == "cpu" else None
            contestants, failures = _prepare_all(request, ask, case, inputs, target, before, changing)
            before_calls = fixed_checksums(case, inputs)
        session = Session(
            case, inputs, target, ask, Path(request.output_dir), phases_s, request.budget_s, request.max_blocks
        )
        try:
            gc.collect()
            gc.freeze()  # what is there now, no later collection has to go through
            with untouched("in timed calls", changing=changing) as found:
                session.look = functools.partial(_look, found, stand)
                measurements, kept = session.measure(contestants)
                witnessed = [c for c in contestants if c.kernel_id in request.witnessed]
                session.witness(witnessed, _medians_us(measurements))
            with Stopwatch(phases_s, "check"):
                _refuse_harm(case, inputs, before_calls, target.torch_name)
                if stand:
                    stand.refuse_changes("in timed calls, or before them")
        except tuple(HARM) as error:
            reply = {"status": "incorrect", "reason": HARM[type(error)], "sentence": str(error), "poisoned": True}
            return reply | {"phases_s": phases_s} | culprit(error)
        finally:
            gc.unfreeze()
        cost = vars(case.cost(inputs))
    return {
        "status": "ran",
        "measurements": measurements,
        "kept": kept,
        "failures": failures,
        "cost": dict(cost),
        "phases_s": phases_s,
    }


def _look(before: Snapshot, stand: Footing | None) -> None:
    """In the midst of timed calls: what was changed may be put back before the last of them."""
    before.refuse_changes("in timed calls")
    if stand:
        stand.refuse_changes("in timed calls", quickly=True)


def _medians_us(measurements: list[dict[str, Any]]) -> dict[str, float]:
    return {kernel: statistics.median(times) for m in measurements for kernel, times in m["times_us"].items()}


def _refuse_harm(problem: Problem, inputs: Inputs, checksums_before: dict[str, int], torch_device: str) -> None:
    """Raise where the timed calls did what no call may."""
    after = fixed_checksums(problem, inputs)
    changed = [name for name, value in after.items() if value != checksums_before[name]]
    if changed:
        raise InputsChangedError(f"In timed calls its inputs were changed: {', '.join(changed)}.")
    if torch_device == "cpu" and keeps_computing():
        raise OutsideWorkError("Its process keeps computing after the last timed call has returned.")


def _load_libraries(request: Request, problem: Problem, device: Device) -> None:
    """What a library sets when it is imported, it sets for all kernels."""
    for kernel_id in request.libraries:
        with contextlib.suppress(Exception):
            why_not(load_watched(kernel_id, library=True), problem, device)
    for kernel_id in request.kernels:
        if kernel_id not in request.libraries:
            import_ahead(kernel_id)


def _prepare_all(
    request: Request, ask: Ask, problem: Problem, inputs: Inputs, device: Device, before: Any, changing: set[str]
) -> tuple[list[Contestant], list[dict[str, Any]]]:
    """Contestants, and failures. What kernels change of their own modules when they are called goes to `changing`."""
    contestants: list[Contestant] = []
    failures: list[dict[str, Any]] = []
    if device.kind == "cpu":
        HELPERS.claim("")
    order = random.Random(request.seed).sample(request.kernels, len(request.kernels))
    for kernel_id in order:  # who comes first gets other memory
        library = kernel_id in request.libraries
        ask({"ask": "prepare", "kernel": kernel_id})  # so that the parent's patience is with each, not with all
        try:
            kernel = load_watched(kernel_id, library)
            others = {c.kernel_id: c.calls for c in contestants}
            with (
                left_alone(kernel_id, others, "while it was prepared"),
                untouched("while it was prepared", module_of(kernel_id), library) as found,
            ):
                contestants.append(_prepare(kernel_id, kernel, problem, inputs, device, before))
                changing |= found.own_changes()
            if device.kind == "cpu":
                HELPERS.claim(kernel_id)
        except Exception as error:
            reply = failure(error)
            if reply["poisoned"]:
                blamed(kernel_id, error)
                raise
            failures.append({"kernel": kernel_id, "reason": reply["reason"], "sentence": reply["sentence"]})
    return contestants, failures


def _prepare(
    kernel_id: str, kernel: Kernel, problem: Problem, inputs: Inputs, device: Device, before: Any
) -> Contestant:
    began = time.perf_counter()
    own_problem = discover.problem_as_seen_by(kernel_id, discover.problem_key(problem))
    reason = why_not(kernel, own_problem, device)
    if reason:
        raise RuntimeError(f"it was correct before, and now {reason}")
    given = handles(inputs)
    kernel.plan(own_problem, plan_inputs(problem, given), device)  # the first plan may compile
    synchronize(device.torch_name)
    start = time.perf_counter_ns()
    state = kernel.plan(own_problem, plan_inputs(problem, given), device)
    synchronize(device.torch_name)
    plan_us = (time.perf_counter_ns() - start) / 1e3
    run = functools.partial(kernel.run, given, state)
    host_us = statistics.median(_host_time_us(run, device) for _ in range(HOST_CALLS))
    calls = [TimedCall(run, before) for _ in range(1 if device.kind == "cpu" else ROTATIONS)]
    prepare_s = time.perf_counter() - began
    return Contestant(kernel_id, kernel, own_problem, given, state, plan_us, host_us, prepare_s, calls)


def _host_time_us(run: Any, device: Device) -> float:
    """Until an eager call returns to the host, the device idle before it."""
    synchronize(device.torch_name)
    start = time.perf_counter_ns()
    run()
    elapsed_us = (time.perf_counter_ns() - start) / 1e3
    synchronize(device.torch_name)
    return elapsed_us
