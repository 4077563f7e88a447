"""In a worker on a GPU: choices of a template, each checked and timed beside the choice by hand.

For a search, which takes it as a hint: few calls, one process, inputs that stay. What a search writes is judged by the
gate like any other kernel.
"""

from __future__ import annotations

import contextlib
import functools
import json
import random
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from kernels import discover
from kernels.device import Device
from kernels.kernel import Kernel
from kernels.problem import Inputs, Outputs, Problem
from kernels.space import Space
from kernels.updates import spoil_updates, taken_updates

from ..device.timer import GraphRecords, Step, TimedCall
from ..judge.check import compare, expected_outputs
from .caches import flush_and_touch
from .execute import plan_inputs, synchronize

GLANCE, CALLS = 3, 9
"""How often a choice is timed: first, and again if it is not far behind the choice by hand."""
FAR_BEHIND = 1.5
MOST_MEMORY = 0.4
"""Of the device, in use when another problem's inputs are made: they may fill half of it."""


def measure_choice(choice: dict[str, Any], **place: Any) -> dict[str, Any]:
    """Answer to `measure_choice`: {"status": "measured", "time_us", "by_hand_us"}, or what is wrong.

    `place` is what `ChoiceBench.on` takes. Both times are medians of cold calls, replayed graphs in random order. An
    exception is the choice's failure.
    """
    with torch.inference_mode():
        with contextlib.suppress(torch.cuda.OutOfMemoryError):
            return _bench(place).measure(choice)
        while len(_BENCHES) > 1:  # what other problems keep is not this choice's fault
            _forget_oldest()
        return _bench(place).measure(choice)


def prepare_choices(choice: dict[str, Any], **place: Any) -> dict[str, Any]:
    """Answer to `prepare_choices`: make a problem's inputs ahead of its first choice, as far as there is room."""
    with torch.inference_mode():
        if _memory_share() < MOST_MEMORY / 2:
            _bench(place)
    return {"status": "ran"}


def _bench(place: dict[str, Any]) -> ChoiceBench:
    """The bench of a place. The latest are kept, for choices of several problems come in turn."""
    key = json.dumps(place, sort_keys=True)
    if key in _BENCHES:
        _BENCHES[key] = _BENCHES.pop(key)  # the latest is the last
        return _BENCHES[key]
    while _BENCHES and _memory_share() > MOST_MEMORY:
        _forget_oldest()
    while _BENCHES:
        with contextlib.suppress(torch.cuda.OutOfMemoryError):
            _BENCHES[key] = ChoiceBench.on(**place)
            return _BENCHES[key]
        _forget_oldest()
    _BENCHES[key] = ChoiceBench.on(**place)
    return _BENCHES[key]


def _forget_oldest() -> None:
    del _BENCHES[next(iter(_BENCHES))]
    torch.cuda.empty_cache()


def _memory_share() -> float:
    """Of the device's memory, what is not free; nothing where there is no GPU."""
    if not torch.cuda.is_available():
        return 0.0
    free_bytes, total_bytes = torch.cuda.mem_get_info()
    return 1 - free_bytes / total_bytes


@dataclass
class ChoiceBench:
    """One problem's inputs, what must come out, and the call that was chosen by hand."""

    problem: Problem
    space: Space
    kernel: Kernel
    device: Device
    inputs: Inputs
    expected: Outputs
    before: Callable[[], None]
    by_hand: TimedCall | None = None

    @staticmethod
    def on(
        family: str, template: str, problem: str, device: dict[str, Any], cache_bytes: int, seed: int
    ) -> ChoiceBench:
        """The bench of one problem."""
        target, case = Device(**device), discover.load_problem(problem)
        space = next(space for space in discover.load_spaces(family) if space.template == template)
        kernel = discover.load_kernel(f"{family}/{template}")
        inputs = case.make_inputs(seed, target.torch_name, case.distributions[0])
        before = flush_and_touch(case, inputs, target.torch_name, cache_bytes)
        return ChoiceBench(case, space, kernel, target, inputs, expected_outputs(case, inputs), before)

    def measure(self, choice: Mapping[str, Any]) -> dict[str, Any]:
        """Check a choice, then time it beside the one by hand, which is ready from the first time on."""
        if self.by_hand is None:
            self.by_hand = self.prepared(self.space.by_hand(self.problem, self.device))
        call = self.prepared(choice)
        fault = self._fault(call)
        if fault:
            return {"status": "failed", "reason": "wrong_output", "sentence": fault}
        times_us = self._times_us(call, GLANCE)
        if statistics.median(times_us[0]) < FAR_BEHIND * statistics.median(times_us[1]):
            times_us = self._times_us(call, CALLS)
        own_us, by_hand_us = (round(statistics.median(times), 4) for times in times_us)
        return {"status": "measured", "time_us": own_us, "by_hand_us": by_hand_us}

    def prepared(self, choice: Mapping[str, Any]) -> TimedCall:
        """A choice planned, warmed up and captured. CaptureError where it cannot be."""
        state = self.space.planned(self.problem, choice, plan_inputs(self.problem, self.inputs), self.device)
        call = TimedCall(functools.partial(self.kernel.run, self.inputs, state), self.before)
        GraphRecords().prepare(call)
        return call

    def _fault(self, call: TimedCall) -> str | None:
        """What is wrong with the outputs of a replay, as a sentence."""
        assert call.replay is not None
        for output in call.outputs.values():
            output.fill_(float("nan") if output.is_floating_point() else -1)
        spoil_updates(self.problem, self.inputs)
        call.replay()
        actual = call.outputs | taken_updates(self.problem, self.inputs)
        synchronize(self.device.torch_name)
        for name, tolerance in self.problem.tolerances().items():
            factor = self.kernel.output_factors.get(name, 1.0)
            fault = compare(actual[name].float() * factor, self.expected[name], tolerance)[1]
            if fault:
                return f"Output {name} is wrong: {fault}."
        return None

    def _times_us(self, call: TimedCall, times: int) -> tuple[list[float], list[float]]:
        """Microseconds of so many calls of a choice, and of the one by hand."""
        assert self.by_hand is not None
        order = [call, self.by_hand] * times
        random.shuffle(order)
        measured = GraphRecords().measure(Step(one) for one in order)
        both = list(zip(order, measured, strict=True))
        return [us for one, us in both if one is call], [us for one, us in both if one is self.by_hand]


_BENCHES: dict[str, ChoiceBench] = {}
"""By their places, the latest last."""
