"""What the device did and when, by the profiler's records; timed calls stand between two markers.

Imported in worker processes only: torch loads here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch

MARKER_CYCLES = 1
T = TypeVar("T")
Record = tuple[float, float, str]
"""Start and end in us, and the name of what the device did."""


class TimerError(Exception):
    """This timer gave no complete measurement; the sentence says why. Nothing of it may be used."""


class OutsideWorkError(Exception):
    """Work was done that is neither inside a timed interval nor the timing's own: somebody hides time there."""


def spin(cycles: int) -> None:
    """Enqueue a kernel that keeps one multiprocessor busy for that many clock cycles."""
    torch.cuda._sleep(cycles)  # noqa: SLF001 - PyTorch's own tests use it; it has no public name


def mark() -> None:
    """A recognisable kernel that does nothing."""
    spin(MARKER_CYCLES)


def recorded(calls: Iterable[int], surroundings: set[str] | None = None) -> list[float]:
    """Microseconds of each call, between its two markers. Advancing `calls` makes one, and says which it was.

    TimerError where records are missing; OutsideWorkError where anything but `surroundings` (names of kernels) runs
    between the calls.
    """
    marker = _marker_name()
    made, records = _profiled(lambda: list(calls))
    intervals, outside = _between_markers(records, marker)
    if len(intervals) != len(made):
        raise TimerError(f"The profiler's records hold {len(intervals)} of {len(made)} calls: records were lost.")
    if surroundings is not None:
        _refuse_outside_work(outside, surroundings)
    counts: dict[int, int] = {}
    times_us = []
    for call, interval in zip(made, intervals, strict=True):
        if not interval:
            raise TimerError("The profiler saw no device activity of a call.")
        if counts.setdefault(call, len(interval)) != len(interval):
            raise TimerError(f"Calls of one kernel have {len(interval)} and {counts[call]} records: records were lost.")
        times_us.append(max(end for _, end, _ in interval) - min(start for start, _, _ in interval))
    return times_us


def names_of(everything: Callable[[], None]) -> set[str]:
    """Names of all that the device does for `everything`, which is called twice: the first time is to warm up."""
    everything()
    _, records = _profiled(everything)
    return {name for _, _, name in records}


def _profiled(work: Callable[[], T]) -> tuple[T, list[Record]]:
    """What `work` returns, and the records of the device, in order of time."""
    from torch.profiler import ProfilerActivity, profile

    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA], acc_events=True) as profiler:
        result = work()
        torch.cuda.synchronize()
    return result, sorted(_device_records(profiler))


def _device_records(profiler: Any) -> list[Record]:
    """(start us, end us, name) of every kernel, copy and fill that the device ran."""
    from torch.autograd.profiler_util import DeviceType  # type: ignore[attr-defined]  # public, but not re-exported

    return [
        (event.time_range.start, event.time_range.end, event.name)
        for event in profiler.events()
        if event.device_type == DeviceType.CUDA and not event.is_user_annotation
    ]


def _between_markers(records: list[Record], marker: str) -> tuple[list[list[Record]], list[Record]]:
    """Records of each interval, and those outside of all of them."""
    intervals: list[list[Record]] = []
    outside: list[Record] = []
    inside = False
    for record in records:
        if record[2] == marker:
            inside = not inside
            if inside:
                intervals.append([])
        else:
            (intervals[-1] if inside else outside).append(record)
    if inside:
        raise TimerError("The profiler lost the end of a call.")
    return intervals, outside


def _refuse_outside_work(outside: list[Record], surroundings: set[str]) -> None:
    """OutsideWorkError where kernels run between the timed calls that do not belong to the timing."""
    foreign = sorted({name for _, _, name in outside} - surroundings)
    if foreign:
        raise OutsideWorkError(
            f"The device worked outside the timed intervals: {len(foreign)} kernels that are not the timing's own, "
            f"{foreign[0][:120]} for one."
        )


_marker_names: list[str] = []


def _marker_name() -> str:
    """The name under which the profiler records a marker; learnt once in a process."""
    if not _marker_names:
        _, records = _profiled(mark)
        names = {name for _, _, name in records}
        if len(names) != 1:
            raise TimerError(f"The profiler records {len(names)} kinds of device activity for one marker.")
        _marker_names.extend(names)
    return _marker_names[0]
