"""In the worker: the canary. Before a machine judges kernels, it must tell a pair of twins from a known slowdown.

Three calls of plain PyTorch are timed like kernels of a launch: interleaved, in random order, on the same memory. Two
do the same work; the third does more of it, by a known share. A machine on which twins differ, or on which the extra
work does not show, cannot judge anybody's kernel.
"""

from __future__ import annotations

import functools
import math
import random
import statistics
from dataclasses import dataclass
from typing import Any

import torch

from ..device.device_records import TimerError
from ..device.timer import CaptureError, GraphRecords, PerfCounter, QueuedEvents, Step, TimedCall, Timer
from .caches import GPU_FLUSH_FACTOR, MIN_FLUSH_BYTES

FIRST, TWIN, SLOWER = "first", "twin", "slower"
ATTEMPTS = 2
"""One disturbance is no unfit machine; two in a row are."""


@dataclass(frozen=True)
class Plan:
    """What the canary does on a kind of device, and what it must see."""

    rows: int
    columns: int
    blocks: int
    extra: float
    """Extra work of the slower call, as a share."""
    twins_within: float
    """How far the twins' ratio may be from 1."""


ON_GPU = Plan(rows=32768, columns=1024, blocks=30, extra=0.10, twins_within=0.02)
"""256 MiB moved by a call, about 70 us on an H200. The gate decides on 2 to 3%."""
ON_CPU = Plan(rows=256, columns=512, blocks=15, extra=0.50, twins_within=0.15)
"""A product of a few milliseconds. The gate decides on 10%."""


def canary(device: dict[str, Any], cache_bytes: int, seed: int) -> dict[str, Any]:
    """{"canary": {timer, twins, slower, planted, times_us, attempts, unfit}}: ratios to the first call, by medians.

    `unfit` is a sentence where this device cannot judge, else None.
    """
    plan = ON_CPU if device["kind"] == "cpu" else ON_GPU
    rng, result = random.Random(seed), dict[str, Any]()
    with torch.inference_mode():
        calls = _calls(plan, device["kind"] == "cpu", cache_bytes)
        for attempt in range(1, ATTEMPTS + 1):
            timer = _timer(device["kind"] == "cpu", calls)
            try:
                result = judged(plan, timer.name, _times_us(plan, timer, calls, rng))
            except TimerError as error:
                result = {"timer": timer.name, "unfit": f"No timer gave a complete measurement: {error}"}
            result["attempts"] = attempt
            if result["unfit"] is None:
                break
    return {"status": "ran", "canary": result}


def judged(plan: Plan, timer: str, times_us: dict[str, list[float]]) -> dict[str, Any]:
    """What the times say. Each kernel's b-th time belongs to block b."""
    twins, slower = (_ratio(times_us[FIRST], times_us[name]) for name in (TWIN, SLOWER))
    least, most = 1 + plan.extra / 2, 1 + 2 * plan.extra
    unfit = None
    if abs(math.log(twins)) > math.log1p(plan.twins_within):
        unfit = f"The same work, timed twice, differs by {abs(twins - 1):.1%}; {plan.twins_within:.0%} is the most."
    elif not least < slower < most:
        unfit = (
            f"A call with {plan.extra:.0%} more work took {slower - 1:+.1%} of time; between {least - 1:.0%} and "
            f"{most - 1:.0%} must be seen."
        )
    return {"timer": timer, "twins": round(twins, 5), "slower": round(slower, 5), "planted": 1 + plan.extra,
            "times_us": times_us, "unfit": unfit}  # fmt: skip


def _calls(plan: Plan, on_cpu: bool, cache_bytes: int) -> dict[str, TimedCall]:
    more = round(plan.rows * (1 + plan.extra))
    if on_cpu:
        x, w = torch.randn(more, plan.columns), torch.randn(plan.columns, 4 * plan.columns)
        out = torch.empty(more, 4 * plan.columns)
        work = {rows: functools.partial(_multiply, x[:rows], w, out[:rows]) for rows in (plan.rows, more)}
        return {name: TimedCall(work[rows], lambda: None) for name, rows in _rows(plan.rows, more)}
    x = torch.randn(more, plan.columns, device="cuda")
    out = torch.empty_like(x)
    flushed = torch.zeros(max(MIN_FLUSH_BYTES, GPU_FLUSH_FACTOR * cache_bytes) // 4, device="cuda")
    before = functools.partial(_read, flushed)
    work = {rows: functools.partial(_scale, x[:rows], out[:rows]) for rows in (plan.rows, more)}
    return {name: TimedCall(work[rows], before) for name, rows in _rows(plan.rows, more)}


def _rows(rows: int, more: int) -> tuple[tuple[str, int], ...]:
    return (FIRST, rows), (TWIN, rows), (SLOWER, more)


def _multiply(x: torch.Tensor, w: torch.Tensor, out: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"out": torch.mm(x, w, out=out)}


def _scale(x: torch.Tensor, out: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"out": torch.mul(x, 0.5, out=out)}


def _read(tensor: torch.Tensor) -> None:
    tensor.amax()


def _timer(on_cpu: bool, calls: dict[str, TimedCall]) -> Timer:
    """The timer that launches would use, with all calls made ready for it."""
    if on_cpu:
        timer: Timer = PerfCounter()
        for call in calls.values():
            timer.prepare(call)
        return timer
    timer = GraphRecords()
    try:
        for call in calls.values():
            if call.replay is None:
                timer.prepare(call)
    except CaptureError:
        for call in calls.values():
            call.replay = None
            call.run()
        return QueuedEvents()
    return timer


def _times_us(plan: Plan, timer: Timer, calls: dict[str, TimedCall], rng: random.Random) -> dict[str, list[float]]:
    order = [name for _ in range(plan.blocks) for name in rng.sample(sorted(calls), len(calls))]
    times_us: dict[str, list[float]] = {name: [] for name in calls}
    for name, time_us in zip(order, timer.measure([Step(calls[name]) for name in order]), strict=True):
        times_us[name].append(round(time_us, 4))
    return times_us


def _ratio(first_us: list[float], other_us: list[float]) -> float:
    """How many times as long the other took: the median over blocks."""
    return math.exp(statistics.median(math.log(b / a) for a, b in zip(first_us, other_us, strict=True)))
