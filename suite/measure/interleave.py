"""In the worker: measure all kernels of one problem, interleaved in randomised blocks.

A block calls every kernel once, in random order, on the same input buffers and values; activations are redrawn for each
block, and written again before each call. Kernels are captured twice, so that outputs and workspaces rotate between two
places of memory. The outputs of one random block are kept for the referee.
"""

from __future__ import annotations

import contextlib
import functools
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

from ..device.timer import CaptureError, GraphRecords, PerfCounter, QueuedEvents, Step, TimedCall, Timer, TimerError
from ..judge.check import compare
from .caches import flush_and_touch
from .execute import checksums, failure, fixed_inputs, plan_inputs, save_outputs, synchronize, why_not
from .stopwatch import Stopwatch
from .torch_state import unchanged_state

ROTATIONS = 2
HOST_CALLS = 5
MIN_BLOCKS = 10
RECORD_ATTEMPTS = 3


@dataclass
class Contestant:
    """One kernel on one problem, planned and warmed up."""

    kernel_id: str
    kernel: Kernel
    problem: Problem
    """As the kernel's own tree defines it."""
    state: Any
    plan_us: float
    host_us: float
    prepare_s: float
    calls: list[TimedCall]


def measure_problem(
    problem: str,
    kernels: list[str],
    device: dict[str, Any],
    cache_bytes: int,
    seed: int,
    max_blocks: int,
    budget_s: float,
    output_dir: str,
) -> dict[str, Any]:
    """All blocks of one problem. Returns {measurements, kept, failures, cost, phases_s}.

    Each measurement has one timer: graph records where the call can be captured, and where any cannot, a second one of
    all kernels by queued events, so that kernel and rival are always timed the same way.
    """
    target, case = Device(**device), discover.load_problem(problem)
    phases_s: dict[str, float] = {}
    rng = random.Random(seed)
    kernels = rng.sample(kernels, len(kernels))  # who comes first gets other memory: not the same one in every launch
    with torch.inference_mode():
        with Stopwatch(phases_s, "inputs"):
            inputs = case.make_inputs(seed, target.torch_name)
            before = flush_and_touch(case, inputs, target.torch_name, cache_bytes)
            synchronize(target.torch_name)
        with Stopwatch(phases_s, "prepare"):
            contestants, failures = _prepare_all(kernels, case, inputs, target, before)
            before_calls = checksums(fixed_inputs(case, inputs))
        session = _Session(case, inputs, target, rng, Path(output_dir), phases_s, budget_s, max_blocks)
        measurements, kept = session.measure(contestants, failures)
        with Stopwatch(phases_s, "check"):
            after_calls = checksums(fixed_inputs(case, inputs))
            cost = vars(case.cost(inputs))
    changed = [name for name, value in after_calls.items() if value != before_calls[name]]
    if changed:  # whose doing it was, the parent finds out by measuring each kernel alone
        sentence = f"In timed calls its inputs were changed: {', '.join(changed)}."
        return {"status": "incorrect", "reason": "inputs_changed", "sentence": sentence, "phases_s": phases_s}
    return {
        "status": "ran",
        "measurements": measurements,
        "kept": kept,
        "failures": failures,
        "cost": dict(cost),
        "phases_s": phases_s,
    }


def _prepare_all(
    kernel_ids: list[str], problem: Problem, inputs: Inputs, device: Device, before: Any
) -> tuple[list[Contestant], list[dict[str, Any]]]:
    contestants, failures = [], []
    for kernel_id in kernel_ids:  # what a library sets when it is imported, it sets for all of them
        with contextlib.suppress(Exception):
            why_not(discover.load_kernel(kernel_id), problem, device)
    for kernel_id in kernel_ids:
        try:
            with unchanged_state():
                contestants.append(_prepare(kernel_id, problem, inputs, device, before))
        except Exception as error:
            reply = failure(error)
            if reply["poisoned"]:
                raise
            failures.append({"kernel": kernel_id, "reason": reply["reason"], "sentence": reply["sentence"]})
    return contestants, failures


def _prepare(kernel_id: str, problem: Problem, inputs: Inputs, device: Device, before: Any) -> Contestant:
    began = time.perf_counter()
    kernel = discover.load_kernel(kernel_id)
    own_problem = discover.problem_as_seen_by(kernel_id, discover.problem_key(problem))
    reason = why_not(kernel, own_problem, device)
    if reason:
        raise RuntimeError(f"it was correct before, and now {reason}")
    kernel.plan(own_problem, plan_inputs(problem, inputs), device)  # the first plan may compile
    synchronize(device.torch_name)
    start = time.perf_counter_ns()
    state = kernel.plan(own_problem, plan_inputs(problem, inputs), device)
    synchronize(device.torch_name)
    plan_us = (time.perf_counter_ns() - start) / 1e3
    run = functools.partial(kernel.run, inputs, state)
    host_us = statistics.median(_host_time_us(run, device) for _ in range(HOST_CALLS))
    calls = [TimedCall(run, before) for _ in range(1 if device.kind == "cpu" else ROTATIONS)]
    return Contestant(kernel_id, kernel, own_problem, state, plan_us, host_us, time.perf_counter() - began, calls)


def _host_time_us(run: Any, device: Device) -> float:
    """Until an eager call returns to the host, the device idle before it."""
    synchronize(device.torch_name)
    start = time.perf_counter_ns()
    run()
    elapsed_us = (time.perf_counter_ns() - start) / 1e3
    synchronize(device.torch_name)
    return elapsed_us


class _Session:
    """The timed part of one problem."""

    def __init__(
        self,
        problem: Problem,
        inputs: Inputs,
        device: Device,
        rng: random.Random,
        output_dir: Path,
        phases_s: dict[str, float],
        budget_s: float,
        max_blocks: int,
    ) -> None:
        self.problem, self.inputs, self.device, self.rng = problem, inputs, device, rng
        self.output_dir, self.phases_s, self.budget_s, self.max_blocks = output_dir, phases_s, budget_s, max_blocks
        self.generator = torch.Generator(device.torch_name)

    def measure(
        self, contestants: list[Contestant], failures: list[dict[str, Any]]
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Measurements and kept outputs; kernels that fail on the way are added to `failures`."""
        if self.device.kind == "cpu":
            return self._one(PerfCounter(), contestants, [])
        notes: list[str] = []
        captured = self._capture(contestants, notes)
        measurements, kept = self._one(GraphRecords(), captured, notes) if captured else ([], [])
        with Stopwatch(self.phases_s, "check"):
            safe = self._graph_safety(captured)
        for measurement in measurements:
            measurement["graph_safe"] = safe
        if len(captured) < len(contestants) or not measurements:
            for contestant in contestants:  # eager calls from here on
                for call in contestant.calls:
                    call.replay = None
            again, kept_again = self._one(QueuedEvents(max(c.host_us for c in contestants)), contestants, notes)
            measurements, kept = measurements + again, kept + kept_again
        return measurements, kept

    def _capture(self, contestants: list[Contestant], notes: list[str]) -> list[Contestant]:
        captured, timer = [], GraphRecords()
        with Stopwatch(self.phases_s, "prepare"):
            for contestant in contestants:
                try:
                    for call in contestant.calls:
                        timer.prepare(call)
                    captured.append(contestant)
                except CaptureError as error:
                    notes.append(f"{contestant.kernel_id} cannot be captured into a graph: {error}")
        return captured

    def _graph_safety(self, captured: list[Contestant]) -> dict[str, bool]:
        """Whether each captured graph, replayed after the lengths changed, still gives what a fresh plan gives."""
        plan = plan_inputs(self.problem, self.inputs)
        saved = {name: tensor.clone() for name, tensor in plan.items()}
        if not self.problem.shorten(self.inputs, self.generator.manual_seed(self.rng.randrange(1 << 48))):
            return {}
        safe = {}
        for contestant in captured:
            state = contestant.kernel.plan(contestant.problem, plan, self.device)
            expected = contestant.kernel.run(self.inputs, state)
            call = contestant.calls[0]
            assert call.replay is not None
            call.replay()
            safe[contestant.kernel_id] = all(
                compare(call.outputs[name].float(), expected[name].float(), tolerance)[1] is None
                for name, tolerance in self.problem.tolerances().items()
            )
        for name, tensor in saved.items():
            plan[name].copy_(tensor)
        return safe

    def _one(
        self, timer: Timer, contestants: list[Contestant], notes: list[str]
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """One timer over all blocks. An incomplete measurement is void and made again, then given up."""
        blocks = self._affordable_blocks(contestants)
        for attempt in range(RECORD_ATTEMPTS):
            steps, order, kept = self._schedule(contestants, blocks)
            try:
                with Stopwatch(self.phases_s, "kernels"):
                    times_us = timer.measure(steps)
                    synchronize(self.device.torch_name)
            except TimerError as error:
                notes.append(f"attempt {attempt + 1} by {timer.name} is void: {error}")
                continue
            with Stopwatch(self.phases_s, "check"):
                kept_files = [self._save(k, timer.name) for k in kept]
            return [self._measurement(timer, contestants, order, times_us, notes)], kept_files
        return [], []

    def _affordable_blocks(self, contestants: list[Contestant]) -> int:
        """As many blocks as fit the time budget, from a trial block without the timer, whose start-up is slow."""
        steps, _, _ = self._schedule(contestants, 1)
        with Stopwatch(self.phases_s, "prepare"):
            start = time.perf_counter()
            for step in steps:
                step.setup()
                step.call.before()
                (step.call.replay or step.call.run)()
            synchronize(self.device.torch_name)
            block_s = time.perf_counter() - start
        return max(MIN_BLOCKS, min(self.max_blocks, int(self.budget_s / block_s)))

    def _schedule(
        self, contestants: list[Contestant], blocks: int
    ) -> tuple[list[Step], list[str], list[dict[str, Any]]]:
        kept_block = self.rng.randrange(blocks)
        steps: list[Step] = []
        order: list[str] = []
        kept: list[dict[str, Any]] = []
        for block in range(blocks):
            redraw_seed = self.rng.randrange(1 << 48)
            for contestant in self.rng.sample(contestants, len(contestants)):
                call = self.rng.choice(contestant.calls)
                step = Step(call, setup=functools.partial(self._setup, call, redraw_seed))
                if block == kept_block:
                    entry: dict[str, Any] = {"contestant": contestant, "redraw_seed": redraw_seed}
                    step.after = functools.partial(_keep, call, entry)
                    kept.append(entry)
                steps.append(step)
                order.append(contestant.kernel_id)
        return steps, order, kept

    def _setup(self, call: TimedCall, redraw_seed: int) -> None:
        for output in call.outputs.values():
            if output.is_floating_point():
                output.fill_(float("nan"))
        self.problem.redraw(self.inputs, self.generator.manual_seed(redraw_seed))

    def _save(self, entry: dict[str, Any], timer_name: str) -> dict[str, Any]:
        contestant = entry["contestant"]
        prefix = f"{timer_name}.{contestant.kernel_id.replace('_', '__').replace('/', '_')}."
        return {
            "kernel": contestant.kernel_id,
            "redraw_seed": entry["redraw_seed"],
            "outputs": save_outputs(entry["outputs"], self.output_dir, prefix),
        }

    def _measurement(
        self, timer: Timer, contestants: list[Contestant], order: list[str], times_us: list[float], notes: list[str]
    ) -> dict[str, Any]:
        by_kernel: dict[str, list[float]] = {c.kernel_id: [] for c in contestants}
        for kernel_id, time_us in zip(order, times_us, strict=True):
            by_kernel[kernel_id].append(round(time_us, 4))
        return {
            "timer": timer.name,
            "times_us": by_kernel,
            "host_us": {c.kernel_id: round(c.host_us, 3) for c in contestants},
            "plan_us": {c.kernel_id: round(c.plan_us, 3) for c in contestants},
            "graph_safe": {},
            "facts": {f"prepare_s {c.kernel_id}": round(c.prepare_s, 3) for c in contestants},
            "notes": notes,
        }


def _keep(call: TimedCall, entry: dict[str, Any]) -> None:
    entry["outputs"] = {name: output.clone() for name, output in call.outputs.items()}
