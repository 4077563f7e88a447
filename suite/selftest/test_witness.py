"""The parent's clock: what it says of a call, whatever its replay flushes and whatever queueing costs the host."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from suite.device.timer import CYCLES_PER_US, TimedCall
from suite.measure import witness
from suite.measure.blocks import BlockSource
from suite.measure.contestant import Contestant
from suite.measure.witness import WitnessRounds

CALLS = 10


class Device:
    """Work that the host queues, and that is waited for in the end, as on a GPU."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.until = 0.0
        monkeypatch.setattr(witness, "synchronize", lambda name: self.wait())
        monkeypatch.setattr(witness, "spin", lambda cycles: self.run(cycles / CYCLES_PER_US))

    def wait(self) -> None:
        time.sleep(max(0.0, self.until - time.monotonic()))

    def run(self, time_us: float, host_us: float = 0.0) -> None:
        time.sleep(host_us / 1e6)
        self.until = max(self.until, time.monotonic()) + time_us / 1e6


def witnessed_us(device: Device, call: TimedCall, host_us: float = 0.0) -> float:
    contestant: Any = SimpleNamespace(kernel_id="toy/one", calls=[call], host_us=host_us)
    inputs, draws = {"x": torch.zeros(2)}, [{"x": torch.full((2,), float(n))} for n in (1, 2)]
    source = BlockSource(lambda kernel: "generated")
    WitnessRounds(contestant, inputs, draws, "cpu", source.answer).play(CALLS)
    assert inputs["x"][0] in (1, 2)
    return source.witness_us()["toy/one"]


@pytest.mark.parametrize("host_us", [0.0, 3000.0])
def test_a_replay_is_told_without_its_flush_and_without_the_hosts_time(
    host_us: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = Device(monkeypatch)
    call = TimedCall(run=dict, before=lambda: device.run(1000), replay=lambda: device.run(3000, host_us))
    assert witnessed_us(device, call) == pytest.approx(2000, rel=0.3)


def test_an_eager_call_is_told_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device(monkeypatch)

    def run() -> dict[str, torch.Tensor]:
        device.run(2000)
        return {}

    call = TimedCall(run=run, before=lambda: device.run(1000))
    assert witnessed_us(device, call) == pytest.approx(2000, rel=0.3)
    assert Contestant.__slots__  # an instance's methods cannot be replaced


def test_what_an_eager_call_costs_the_host_before_it_waits_is_not_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """It launches for 15 ms, waits for the device, goes on: the timer's delay hides the launches, and so must we."""
    device = Device(monkeypatch)

    def run() -> dict[str, torch.Tensor]:
        device.run(5000, host_us=15000.0)
        device.wait()
        device.run(5000)
        return {}

    call = TimedCall(run=run, before=lambda: device.run(1000))
    assert witnessed_us(device, call, host_us=20000.0) == pytest.approx(10000, rel=0.4)
