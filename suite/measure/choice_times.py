"""In a worker on a GPU: choices of a template, each checked and timed beside the choice by hand.

For a search, which takes it as a hint: few calls, one process, inputs that stay. What a search writes is judged by the
gate like any other kernel.
"""

from __future__ import annotations

import functools
import json
import random
import statistics
import time
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


def measure_choice(choice: dict[str, Any], **place: Any) -> dict[str, Any]:
    """Answer to `measure_choice`: {"status": "measured", "time_us", "by_hand_us", "device_s"}, or what is wrong.

    `place` is what `ChoiceBench.on` takes; as long as it stays the same, so do inputs. Both times are medians of cold
    calls, replayed graphs in random order. An exception is the choice's failure.
    """
    began, key = time.monotonic(), json.dumps(place, sort_keys=True)
    with torch.inference_mode():
        if key not in _BENCHES:
            _BENCHES.clear()  # first, as inputs may fill half of the device
            torch.cuda.empty_cache()
            _BENCHES[key] = ChoiceBench.on(**place)
        return _BENCHES[key].measure(choice) | {"device_s": round(time.monotonic() - began, 3)}


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
        """The bench of one problem, with the choice by hand ready."""
        target, case = Device(**device), discover.load_problem(problem)
        space = next(space for space in discover.load_spaces(family) if space.template == template)
        kernel = discover.load_kernel(f"{family}/{template}")
        inputs = case.make_inputs(seed, target.torch_name, case.distributions[0])
        before = flush_and_touch(case, inputs, target.torch_name, cache_bytes)
        bench = ChoiceBench(case, space, kernel, target, inputs, expected_outputs(case, inputs), before)
        bench.by_hand = bench.prepared(space.by_hand(case, target))
        return bench

    def measure(self, choice: Mapping[str, Any]) -> dict[str, Any]:
        """Check a choice, then time it beside the one by hand."""
        assert self.by_hand is not None
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
"""The latest, by its place."""
