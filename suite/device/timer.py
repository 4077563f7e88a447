"""Timers: how long a call keeps the device busy, from the first start to the last end of its activity.

Five for GPUs, one for CPUs, behind one interface. `graph_records` is the first choice: profiler records of replayed
graphs have the smallest constant offset and the smallest spread (`kernelgate selftest --timers` measures all five).
Where a call cannot be captured, `queued_events` is next; kernel and rival are always timed by the same timer.

Imported in worker processes only: torch loads here.
"""

from __future__ import annotations

import statistics
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from time import perf_counter_ns as _now
from typing import Any

import torch

from kernels.problem import Outputs

from .device_records import OutsideWorkError, mark, names_of, recorded, spin

QUEUE_DELAY_US = 200.0
"""Longer than the host needs to queue flush and events behind it; one and a half times the call's own comes on top."""
CYCLES_PER_US = 2000
"""At 2 GHz; at a lower clock the delay is longer, which does no harm."""
FLOOR_CALLS = 30
UNTRACED = (0,)
"""By whether a hook is on: it has no second element."""
_put: Callable[[object, str, object], Any] = setattr


class CaptureError(Exception):
    """This call cannot be captured into a graph."""


@dataclass(slots=True)
class TimedCall:
    """One kernel, ready to be timed again and again on the same inputs."""

    run: Callable[[], Outputs]
    """Enqueue the call's work and return its outputs."""
    before: Callable[[], None]
    """Enqueued right before the interval: flush the caches, touch what is warm."""
    outputs: Outputs = field(default_factory=dict)
    """Of the latest call (of every replay, once captured)."""
    replay: Callable[[], None] | None = None


@dataclass(slots=True)
class Step:
    """One timed call in a sequence, with what the host does around it, outside the interval."""

    call: TimedCall
    setup: Callable[[], None] = lambda: None
    """Redraw inputs, poison outputs."""
    told: Callable[[float], None] = lambda time_us: None
    """By a timer on the host: the call's time in us, at once."""
    after: Callable[[], None] = lambda: None
    """Keep copies of outputs."""


class Timer(ABC):
    """Times a sequence of steps; the device's clock is read inside, never the host's on a GPU."""

    __slots__ = ()  # so that an instance's methods cannot be replaced
    name: str

    def prepare(self, call: TimedCall) -> None:
        """Make a call ready. CaptureError where it must be captured and cannot be."""
        call.outputs = call.run()

    @abstractmethod
    def measure(self, steps: Iterable[Step]) -> list[float]:
        """Microseconds of every step, in order. TimerError where any of them is incomplete."""


class PerfCounter(Timer):
    """CPU: the host's monotonic clock around the call."""

    __slots__ = ()
    name = "perf_counter"

    def measure(self, steps: Iterable[Step]) -> list[float]:
        times_us = []
        for step in steps:
            step.call.before()
            step.setup()  # as late as can be: nobody has had the time to compute ahead
            times_us.append(_elapsed_us(step.call))
            step.told(times_us[-1])
            step.after()
        return times_us


def _elapsed_us(call: TimedCall) -> float:
    """Microseconds of a call by the host's clock. OutsideWorkError where it returns with a hook of Python's tracing on.

    All in one expression on one line: no part of the sum is a variable, which a kernel could change in its callers'
    frames, and no hook hears of anything before it is asked for.
    """
    try:
        return (_now() - (_put(call, "outputs", call.run()) or _now())) / -1e3 + UNTRACED[_is_traced()]
    except IndexError:
        if not _is_traced():
            raise
    raise OutsideWorkError("A timed call returned and left a hook on, which Python tells of all that runs after it.")


def _is_traced() -> bool:
    return sys.gettrace() is not None or sys.getprofile() is not None


class Events(Timer):
    """A device event on either side of an eager call. Holds launch gaps and the events themselves: 4 to 5 us."""

    name = "events"
    queued = False
    delay_us = 0.0

    def measure(self, steps: Iterable[Step]) -> list[float]:
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

    def measure(self, steps: Iterable[Step]) -> list[float]:
        return [t - self.floor_us for t in super().measure(steps)]


class _Graph(Timer):
    __slots__ = ()

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

    __slots__ = ("_events",)
    name = "graph_events"

    def __init__(self) -> None:
        self._events: dict[int, tuple[Any, Any]] = {}

    def _open(self, call: TimedCall) -> None:
        pair = tuple(torch.cuda.Event(enable_timing=True, external=True) for _ in range(2))
        self._events[id(call)] = (pair[0], pair[1])
        pair[0].record()

    def _close(self, call: TimedCall) -> None:
        self._events[id(call)][1].record()

    def measure(self, steps: Iterable[Step]) -> list[float]:
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

    __slots__ = ("_surroundings",)
    name = "graph_records"

    def __init__(self) -> None:
        self._surroundings: set[str] | None = None

    def learn_surroundings(self, everything: Callable[[], None]) -> None:
        """Record what `everything` around the timed calls has the device do: nothing else may stand there.

        Until it is called, whatever is between two calls is nobody's concern.
        """
        self._surroundings = names_of(everything)

    def _open(self, call: TimedCall) -> None:
        mark()

    def _close(self, call: TimedCall) -> None:
        mark()

    def measure(self, steps: Iterable[Step]) -> list[float]:
        return recorded((_replay(step) for step in steps), self._surroundings)


class Records(Timer):
    """Profiler records of eager calls: exact for one kernel, but with the host's gaps between several."""

    name = "records"

    def measure(self, steps: Iterable[Step]) -> list[float]:
        return recorded(_call(step) for step in steps)


def _replay(step: Step) -> int:
    """One step by its graph, markers and all; returns which call it was."""
    assert step.call.replay is not None
    step.setup()
    step.call.replay()
    step.after()
    return id(step.call)


def _call(step: Step) -> int:
    """One eager step between markers; returns which call it was."""
    step.setup()
    step.call.before()
    mark()
    step.call.outputs = step.call.run()
    mark()
    step.after()
    return id(step.call)
