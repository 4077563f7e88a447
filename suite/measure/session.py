"""In the worker: the timed part of one problem, all kernels interleaved in randomised blocks.

A block calls every kernel once, in random order. Activations are redrawn, and a few rows of the other inputs replaced:
what they are drawn from, the parent sends when their turn comes; whether a call's outputs go to the referee, when it is
over. So nothing in this process can know the next inputs, or which calls will be looked at.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from kernels.device import Device
from kernels.problem import Edit, Inputs, Problem
from kernels.updates import spoil_updates, taken_updates

from ..device.device_records import TimerError
from ..device.timer import CaptureError, GraphRecords, PerfCounter, QueuedEvents, Timer
from ..judge.check import compare
from .blame import blaming
from .contestant import Contestant
from .drawn import Drawn
from .execute import copies, plan_inputs, require_tensors, synchronize
from .possessions import left_alone
from .sequence import Ask, Sequence, surroundings
from .stopwatch import Stopwatch
from .witness import WitnessRounds

MIN_BLOCKS = 10
RECORD_ATTEMPTS = 3
WITNESS_S = 0.02
"""How long the parent times each kernel by its own clock."""
FEWEST_CALLS = 4
"""However long they take: of these, what asking costs is not a hundredth."""
WITNESS_DRAWS = 3
"""Sets of activations that these calls get in turn: drawing them call by call would keep the device waiting."""


@dataclass(slots=True)  # an instance's methods cannot be replaced
class Session:
    """All timing of one problem in one launch."""

    problem: Problem
    inputs: Inputs
    device: Device
    ask: Ask
    output_dir: Path
    phases_s: dict[str, float]
    budget_s: float
    max_blocks: int
    look: Callable[[], None] = lambda: None
    """See `Sequence`."""
    _sequences: int = 0
    drawn: Drawn = field(init=False)

    def __post_init__(self) -> None:
        self.drawn = Drawn(self.problem, self.inputs, torch.Generator(self.device.torch_name))

    def measure(self, contestants: list[Contestant]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Measurements, and kept outputs for the referee. OutsideWorkError: see `timer`."""
        if not contestants:  # none could be prepared, and each failure says why
            return [], []
        if self.device.kind == "cpu":
            return self._one(PerfCounter(), contestants, [])
        notes: list[str] = []
        captured = self._capture(contestants, notes)
        measurements, kept = self._one(self._graph_records(captured), captured, notes) if captured else ([], [])
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

    def witness(self, contestants: list[Contestant], times_us: dict[str, float]) -> None:
        """Let the parent time calls back to back by its own clock, which no kernel can reach.

        On a CPU it does so call by call (blocks.py).
        """
        if self.device.kind == "cpu" or not contestants:
            return
        with Stopwatch(self.phases_s, "check"):
            draws = [self._drawn_activations() for _ in range(WITNESS_DRAWS)]
            for contestant in contestants:
                rounds = WitnessRounds(contestant, self.inputs, draws, self.device.torch_name, self.ask)
                rounds.play(_calls_in(WITNESS_S, times_us.get(contestant.kernel_id, 100.0)))

    def _drawn_activations(self) -> Inputs:
        self.drawn.draw_activations(secrets.randbelow(1 << 48))
        return {name: self.inputs[name].clone() for name in self.problem.activations if name in self.inputs}

    def _graph_records(self, captured: list[Contestant]) -> Timer:
        timer = GraphRecords()
        with Stopwatch(self.phases_s, "prepare"):
            calls = [call for contestant in captured for call in contestant.calls]
            timer.learn_surroundings(lambda: surroundings(self.problem, self.drawn, self.inputs, calls))
        return timer

    def _capture(self, contestants: list[Contestant], notes: list[str]) -> list[Contestant]:
        captured, timer = [], GraphRecords()
        with Stopwatch(self.phases_s, "prepare"):
            everyone = {contestant.kernel_id: contestant.calls for contestant in contestants}
            for contestant in contestants:
                try:
                    for call in contestant.calls:
                        with left_alone(contestant.kernel_id, everyone, "while it was captured"):
                            timer.prepare(call)
                        with blaming(contestant.kernel_id):
                            require_tensors(call.outputs, self.device.torch_name)
                    captured.append(contestant)
                except CaptureError as error:
                    notes.append(f"{contestant.kernel_id} cannot be captured into a graph: {error}")
        return captured

    def _graph_safety(self, captured: list[Contestant]) -> dict[str, bool]:
        """Whether each captured graph, replayed after the lengths changed, still gives what a fresh plan gives."""
        plan = plan_inputs(self.problem, self.inputs)
        saved = copies(plan)
        if not self.problem.shorten(self.inputs, self.drawn.generator.manual_seed(secrets.randbelow(1 << 48))):
            return {}
        older = taken_updates(self.problem, self.inputs)  # where lengths are shorter, calls write to other rows
        safe = {}
        for contestant in captured:
            given = plan_inputs(self.problem, contestant.inputs)
            state = contestant.kernel.plan(contestant.problem, given, self.device)
            expected = contestant.kernel.run(contestant.inputs, state) | taken_updates(self.problem, self.inputs)
            call = contestant.calls[0]
            assert call.replay is not None
            spoil_updates(self.problem, self.inputs)
            call.replay()
            actual = call.outputs | taken_updates(self.problem, self.inputs)
            safe[contestant.kernel_id] = all(
                compare(actual[name].float(), expected[name].float(), tolerance)[1] is None
                for name, tolerance in self.problem.tolerances().items()
            )
        for name, rows in self.problem.updated_rows(self.inputs).items():
            Edit(name, rows, older[name]).apply(self.inputs)
        for name, tensor in saved.items():
            plan[name].copy_(tensor)
        return safe

    def _one(
        self, timer: Timer, contestants: list[Contestant], notes: list[str]
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """One timer over all blocks. An incomplete measurement is void and made again, then given up."""
        blocks = self._affordable_blocks(contestants)
        for attempt in range(RECORD_ATTEMPTS):
            self._sequences += 1
            calls = {c.kernel_id: c.calls for c in contestants}
            sequence = Sequence(self._sequences, self.problem, self.device, self.drawn, self.ask, calls, blocks,
                                self.output_dir, self.look)  # fmt: skip
            try:
                with Stopwatch(self.phases_s, "kernels"):
                    times_us = timer.measure(sequence.steps())
                    synchronize(self.device.torch_name)
            except TimerError as error:
                notes.append(f"attempt {attempt + 1} by {timer.name} is void: {error}")
                continue
            finally:
                self.drawn.restore()
            with Stopwatch(self.phases_s, "check"):
                sequence.save_kept()
            return [self._measurement(timer, contestants, sequence, times_us, notes)], sequence.kept
        return [], []

    def _affordable_blocks(self, contestants: list[Contestant]) -> int:
        """As many blocks as fit the time budget, from a trial block without the timer, whose start-up is slow."""
        with Stopwatch(self.phases_s, "prepare"):
            start = time.perf_counter()
            self.drawn.draw(secrets.randbelow(1 << 48))
            for contestant in contestants:
                call = contestant.calls[0]
                call.before()
                (call.replay or call.run)()
            self.drawn.restore()
            synchronize(self.device.torch_name)
            block_s = time.perf_counter() - start
        return max(MIN_BLOCKS, min(self.max_blocks, int(self.budget_s / block_s)))

    def _measurement(
        self, timer: Timer, contestants: list[Contestant], sequence: Sequence, times_us: list[float], notes: list[str]
    ) -> dict[str, Any]:
        by_kernel: dict[str, list[float]] = {c.kernel_id: [] for c in contestants}
        for kernel_id, time_us in zip(sequence.order, times_us, strict=True):
            by_kernel[kernel_id].append(round(time_us, 4))
        return {
            "sequence": sequence.number,
            "timer": timer.name,
            "times_us": by_kernel,
            "host_us": {c.kernel_id: round(c.host_us, 3) for c in contestants},
            "plan_us": {c.kernel_id: round(c.plan_us, 3) for c in contestants},
            "graph_safe": {},
            "facts": {f"prepare_s {c.kernel_id}": round(c.prepare_s, 3) for c in contestants},
            "notes": notes,
        }


def _calls_in(seconds: float, call_us: float) -> int:
    return max(FEWEST_CALLS, min(100, int(seconds * 1e6 / call_us)))
