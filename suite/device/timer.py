"""Timers: how long a call keeps the device busy, from the first start to the last end of its activity.

Five for GPUs, one for CPUs, behind one interface. `graph_records` is the first choice: profiler records of replayed
graphs have the smallest constant offset and the smallest spread (`kernelgate selftest --timers` measures all five).
Where a call cannot be captured, `queued_events` is next; kernel and rival are always timed by the same timer.

Imported in worker processes only: torch loads here.
"""

from __future__ import annotations

import statistics
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from kernels.problem import Outputs

MARKER_CYCLES = 1
QUEUE_DELAY_US = 200.0
"""Longer than the host needs to queue flush and events behind it; one and a half times the call's own comes on top."""
CYCLES_PER_US = 2000
"""At 2 GHz; at a lower clock the delay is longer, which does no harm."""
FLOOR_CALLS = 30


class TimerError(Exception):
    """This timer gave no complete measurement; the sentence says why. Nothing of it may be used."""


class CaptureError(Exception):
    """This call cannot be captured into a graph."""


@dataclass
class TimedCall:
    """One kernel, ready to be timed again and again on the same inputs."""

    run: Callable[[], Outputs]
    """Enqueue the call's work and return its outputs."""
    before: Callable[[], None]
    """Enqueued right before the interval: flush the caches, touch what is warm."""
    outputs: Outputs = field(default_factory=dict)
    """Of the latest call (of every replay, once captured)."""
    replay: Callable[[], None] | None = None


@dataclass
class Step:
    """One timed call in a sequence, with what the host does around it, outside the interval."""

    call: TimedCall
    setup: Callable[[], None] = lambda: None
    """Redraw inputs, poison outputs."""
    after: Callable[[], None] = lambda: None
    """Keep copies of outputs."""


class Timer(ABC):
    """Times a sequence of steps; the device's clock is read inside, never the host's on a GPU."""

    name: str

    def prepare(self, call: TimedCall) -> None:
        """Make a call ready. CaptureError where it must be captured and cannot be."""
        call.outputs = call.run()

    @abstractmethod
    def measure(self, steps: Sequence[Step]) -> list[float]:
        """Microseconds of every step, in order. TimerError where any of them is incomplete."""


class PerfCounter(Timer):
    """CPU: the host's monotonic clock around the call."""

    name = "perf_counter"

    def measure(self, steps: Sequence[Step]) -> list[float]:
        times_us = []
        for step in steps:
            step.setup()
            step.call.before()
            start = time.perf_counter_ns()
            step.call.outputs = step.call.run()
            times_us.append((time.perf_counter_ns() - start) / 1e3)
            step.after()
        return times_us


class Events(Timer):
    """A device event on either side of an eager call. Holds launch gaps and the events themselves: 4 to 5 us."""

    name = "events"
    queued = False
    delay_us = 0.0

    def measure(self, steps: Sequence[Step]) -> list[float]:
        pairs = []
        for step in steps:
            step.setup()
            if self.queued:
                spin(round(self.delay_us * CYCLES_PER_US))
            step.call.before()
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            step.call.outputs = step.call.run()
            end.record()
            step.after()
            pairs.append((start, end))
        torch.cuda.synchronize()
        return [start.elapsed_time(end) * 1e3 for start, end in pairs]


class QueuedEvents(Events):
    """Events behind a delay on the device, so that the host is ahead; an empty pair's time is subtracted."""

    name = "queued_events"
    queued = True

    def __init__(self, host_us: float = 0.0, subtract_floor: bool = True) -> None:
        """`host_us`: what the slowest call to be timed costs the host."""
        self.delay_us = QUEUE_DELAY_US + 1.5 * host_us
        self.floor_us = 0.0
        if subtract_floor:
            empty = TimedCall(run=dict, before=lambda: None)
            self.floor_us = statistics.median(super().measure([Step(empty)] * FLOOR_CALLS))

    def measure(self, steps: Sequence[Step]) -> list[float]:
        return [t - self.floor_us for t in super().measure(steps)]


class _Graph(Timer):
    def prepare(self, call: TimedCall) -> None:
        call.run()  # whatever is lazy happens before the capture
        torch.cuda.synchronize()
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        try:
            with torch.cuda.graph(graph):
                call.before()
                self._open(call)
                call.outputs = call.run()
                self._close(call)
        except Exception as error:
            torch.cuda.set_stream(stream)  # a capture that is cut off leaves its own stream current
            torch.cuda.synchronize()
            raise CaptureError(str(error).splitlines()[0] if str(error) else type(error).__name__) from error
        call.replay = graph.replay

    @abstractmethod
    def _open(self, call: TimedCall) -> None: ...

    @abstractmethod
    def _close(self, call: TimedCall) -> None: ...


class GraphEvents(_Graph):
    """Replays of flush, event, call, event as one graph."""

    name = "graph_events"

    def __init__(self) -> None:
        self._events: dict[int, tuple[Any, Any]] = {}

    def _open(self, call: TimedCall) -> None:
        pair = tuple(torch.cuda.Event(enable_timing=True, external=True) for _ in range(2))
        self._events[id(call)] = (pair[0], pair[1])
        pair[0].record()

    def _close(self, call: TimedCall) -> None:
        self._events[id(call)][1].record()

    def measure(self, steps: Sequence[Step]) -> list[float]:
        times_us = []
        for step in steps:
            assert step.call.replay is not None
            step.setup()
            step.call.replay()
            step.after()
            torch.cuda.synchronize()  # the graph's events hold one replay only
            start, end = self._events[id(step.call)]
            times_us.append(start.elapsed_time(end) * 1e3)
        return times_us


class GraphRecords(_Graph):
    """Profiler records of replayed graphs: marker, call, marker. Records get lost, so all must be there."""

    name = "graph_records"

    def _open(self, call: TimedCall) -> None:
        _mark()

    def _close(self, call: TimedCall) -> None:
        _mark()

    def measure(self, steps: Sequence[Step]) -> list[float]:
        def enqueue(step: Step) -> None:
            assert step.call.replay is not None
            step.call.replay()

        return _recorded(steps, enqueue)


class Records(Timer):
    """Profiler records of eager calls: exact for one kernel, but with the host's gaps between several."""

    name = "records"

    def measure(self, steps: Sequence[Step]) -> list[float]:
        def enqueue(step: Step) -> None:
            step.call.before()
            _mark()
            step.call.outputs = step.call.run()
            _mark()

        return _recorded(steps, enqueue)


def spin(cycles: int) -> None:
    """Enqueue a kernel that keeps one multiprocessor busy for that many clock cycles."""
    torch.cuda._sleep(cycles)  # noqa: SLF001 - PyTorch's own tests use it; it has no public name


def _mark() -> None:
    """A recognisable kernel that does nothing."""
    spin(MARKER_CYCLES)


def _recorded(steps: Sequence[Step], enqueue: Callable[[Step], None]) -> list[float]:
    """Run the steps under the profiler; each call is what lies between its two markers."""
    from torch.profiler import ProfilerActivity, profile

    marker = _marker_name()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA], acc_events=True) as profiler:
        for step in steps:
            step.setup()
            enqueue(step)
            step.after()
        torch.cuda.synchronize()
    records = sorted(_device_records(profiler))
    intervals = _between_markers(records, marker)
    if len(intervals) != len(steps):
        raise TimerError(f"The profiler's records hold {len(intervals)} of {len(steps)} calls: records were lost.")
    counts: dict[int, int] = {}
    times_us = []
    for step, interval in zip(steps, intervals, strict=True):
        if not interval:
            raise TimerError("The profiler saw no device activity of a call.")
        if counts.setdefault(id(step.call), len(interval)) != len(interval):
            raise TimerError(
                f"Calls of one kernel have {len(interval)} and {counts[id(step.call)]} records: records were lost."
            )
        times_us.append(max(end for _, end, _ in interval) - min(start for start, _, _ in interval))
    return times_us


def _device_records(profiler: Any) -> list[tuple[float, float, str]]:
    """(start us, end us, name) of every kernel, copy and fill that the device ran."""
    from torch.autograd.profiler_util import DeviceType  # type: ignore[attr-defined]  # public, but not re-exported

    return [
        (event.time_range.start, event.time_range.end, event.name)
        for event in profiler.events()
        if event.device_type == DeviceType.CUDA and not event.is_user_annotation
    ]


def _between_markers(records: list[tuple[float, float, str]], marker: str) -> list[list[tuple[float, float, str]]]:
    intervals: list[list[tuple[float, float, str]]] = []
    inside = False
    for record in records:
        if record[2] == marker:
            inside = not inside
            if inside:
                intervals.append([])
        elif inside:
            intervals[-1].append(record)
    if inside:
        raise TimerError("The profiler lost the end of a call.")
    return intervals


_marker_names: list[str] = []


def _marker_name() -> str:
    """The name under which the profiler records a marker; learnt once in a process."""
    from torch.profiler import ProfilerActivity, profile

    if not _marker_names:
        torch.cuda.synchronize()
        with profile(activities=[ProfilerActivity.CUDA], acc_events=True) as profiler:
            _mark()
            torch.cuda.synchronize()
        names = {name for _, _, name in _device_records(profiler)}
        if len(names) != 1:
            raise TimerError(f"The profiler records {len(names)} kinds of device activity for one marker.")
        _marker_names.extend(names)
    return _marker_names[0]
