"""In the worker: what a kernel holds between its calls, so that nobody else changes it.

A call is made with the kernel's own handles of the inputs and with what its `plan` returned. Both are within reach of
every other kernel of the process, which could make a rival slow or wrong by them.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Container, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import torch

from ..device.timer import TimedCall
from .blame import blamed
from .tampering import Tampered

MOST_VALUES = 20_000
"""Of one kernel: beyond these a plan is taken as it is."""
SMALL_BYTES = 1 << 20
"""Of tensors in a plan up to this size, on the host, the content counts too."""
DEEPEST = 6
PLAIN = (type(None), bool, int, float, str, bytes)


class _Anywhere:
    """Contains every place."""

    def __contains__(self, place: object) -> bool:
        return True


_ANYWHERE = _Anywhere()
Possessions = Mapping[str, tuple[Any, ...]]
"""Kernel -> all that its calls are made with, the flush before them too, as values that can be compared."""


def of_others(kernel: str, calls: Mapping[str, Iterable[TimedCall]]) -> Possessions:
    """What all other kernels than this one hold."""
    return {
        other: tuple(value for call in theirs for function in (call.run, call.before) for value in _held(function))
        for other, theirs in calls.items() if other != kernel
    }  # fmt: skip


def refuse_changes(kernel: str, before: Possessions, calls: Mapping[str, Iterable[TimedCall]], when: str) -> None:
    """Tampered, on `kernel`, where it changed what another holds."""
    now = of_others(kernel, calls) if before else {}  # most timed calls are not looked at
    for other, held in before.items():
        if now.get(other) != held:
            sentence = f"It changed what {other} had planned, or the inputs that it is called with, {when}."
            raise blamed(kernel, Tampered(sentence))


@contextmanager
def left_alone(kernel: str, calls: Mapping[str, Iterable[TimedCall]], when: str) -> Iterator[None]:
    """Tampered where the block, which is this kernel's, changes what another holds."""
    before = of_others(kernel, calls)
    yield
    refuse_changes(kernel, before, calls, when)


def _held(run: Any) -> Iterator[Any]:
    if not isinstance(run, functools.partial):
        yield id(run)
        for cell in getattr(run, "__closure__", None) or ():
            with suppress(ValueError):  # it is empty
                yield from itertools.islice(_values(cell.cell_contents, _ANYWHERE, 0), MOST_VALUES)
        return
    yield from _held(run.func)
    given = next((argument for argument in run.args if isinstance(argument, dict)), {})  # a kernel's run may be partial
    inputs = {_place(value) for value in given.values()}
    for argument in run.args:
        yield from itertools.islice(_values(argument, inputs, 0), MOST_VALUES)


def _values(value: Any, inputs: Container[int], depth: int) -> Iterator[Any]:
    """Plain values as they are, tensors by where they lie, and by content where they are small and no part of the
    inputs, which are drawn again and again; libraries' objects, which they may change by themselves, by identity."""
    inner: Iterable[Any] = ()
    if isinstance(value, PLAIN):
        yield value
    elif isinstance(value, torch.Tensor) and _place(value):
        yield id(value), value.data_ptr(), tuple(value.shape), value.stride(), str(value.dtype)
        if value.is_cpu and value.nbytes <= SMALL_BYTES and _place(value) not in inputs:
            yield value.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
    elif isinstance(value, list | tuple | dict):
        yield type(value), len(value)
        inner = (*value.keys(), *value.values()) if isinstance(value, dict) else value
    else:
        yield id(value)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            inner = (getattr(value, field.name, None) for field in dataclasses.fields(value))
    for one in inner if depth < DEEPEST else ():
        yield from _values(one, inputs, depth + 1)


def _place(value: Any) -> int:
    """Where the memory begins that a tensor is a part of; 0 for what has none of its own, as sparse and nested ones."""
    if isinstance(value, torch.Tensor) and value.layout == torch.strided and not value.is_nested:
        return value.untyped_storage().data_ptr()
    return 0
