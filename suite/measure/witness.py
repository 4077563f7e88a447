"""In the worker: calls back to back, timed by the parent's clock.

A graph's replay flushes the caches too, and inputs are copied in before it: rounds without the call tell what that
takes. The device begins when all is queued, so that what a launch costs the host is in neither. A call that is not
captured may wait for the device within: it is alone behind its own delay, as where it is timed (`QueuedEvents`).
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from kernels.problem import Inputs

from ..device.device_records import spin
from ..device.timer import CYCLES_PER_US, QUEUE_DELAY_US, TimedCall
from .contestant import Contestant
from .execute import synchronize

ROUNDS = 2
MARGIN, MOST_AHEAD_US = 1.5, 1e5
"""How much longer than queueing took the first time the device is kept from beginning."""


@dataclass(slots=True)  # an instance's methods cannot be replaced
class WitnessRounds:
    """Rounds of one kernel, with and without its calls."""

    contestant: Contestant
    inputs: Inputs
    draws: Sequence[Inputs]
    """Activations, given in an order that nobody knows."""
    torch_device: str
    ask: Callable[[dict[str, Any]], dict[str, Any]]

    def play(self, calls: int) -> None:
        """Every round of so many calls."""
        is_captured = self.contestant.calls[0].replay is not None
        ahead_us = min(MARGIN * self._queueing_us(calls), MOST_AHEAD_US) if is_captured else 0.0
        for _ in range(ROUNDS):
            for empty in (True, False):
                self._round(calls, empty, ahead_us)

    def _round(self, calls: int, empty: bool, ahead_us: float) -> None:
        question = {"ask": "witness", "kernel": self.contestant.kernel_id, "calls": calls, "empty": empty}
        synchronize(self.torch_device)
        self.ask(question | {"when": "begin"})
        spin(round(ahead_us * CYCLES_PER_US))
        self._queue(calls, empty)
        synchronize(self.torch_device)
        self.ask(question | {"when": "end"})

    def _queueing_us(self, calls: int) -> float:
        synchronize(self.torch_device)
        start = time.perf_counter()
        self._queue(calls, empty=False)
        elapsed_us = (time.perf_counter() - start) * 1e6
        synchronize(self.torch_device)
        return elapsed_us

    def _queue(self, calls: int, empty: bool) -> None:
        for index in range(calls):
            for name, drawn in self.draws[secrets.randbelow(len(self.draws))].items():
                self.inputs[name].copy_(drawn)
            call = self.contestant.calls[index % len(self.contestant.calls)]
            if call.replay is None:
                self._call_alone(call, empty)
            elif empty:
                call.before()
            else:
                call.replay()

    def _call_alone(self, call: TimedCall, empty: bool) -> None:
        spin(round((QUEUE_DELAY_US + MARGIN * self.contestant.host_us) * CYCLES_PER_US))
        if not empty:
            call.run()
        synchronize(self.torch_device)
