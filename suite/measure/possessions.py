"""In the worker: what a kernel holds between its calls, so that nobody else changes it.

A call is made with the kernel's own handles of the inputs and with what its `plan` returned. Both are within reach of
every other kernel of the process, which could make a rival slow or wrong by them.
"""

from __future__ import annotations

import functools
import inspect
import itertools
from collections.abc import Container, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from types import MemberDescriptorType
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
TENSORS = (torch.Tensor, torch.nn.Parameter)
CONTAINERS = (list, tuple, dict)


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
    if not issubclass(type(run), functools.partial):
        yield id(run)
        for cell in getattr(run, "__closure__", None) or ():
            with suppress(ValueError):  # it is empty
                yield from itertools.islice(_values(cell.cell_contents, _ANYWHERE, 0), MOST_VALUES)
        return
    yield from _held(run.func)
    given = next((argument for argument in run.args if type(argument) is dict), {})  # a kernel's run may be partial
    inputs = {_place(value) for value in given.values()}
    for argument in run.args:
        yield from itertools.islice(_values(argument, inputs, 0), MOST_VALUES)


def _values(value: Any, inputs: Container[int], depth: int) -> Iterator[Any]:
    """Plain values as they are, tensors by where they lie, and by content where they are small and no part of the
    inputs, which are drawn again and again; libraries' objects, which they may change by themselves, by identity."""
    inner: Iterable[Any] = ()
    kind = type(value)  # not what it says of itself: nothing of a kernel's own may run here
    if kind in PLAIN:
        yield value
    elif kind in TENSORS and _place(value):
        plain = torch.Tensor.detach(value)  # without attributes of its own, which stand before methods
        yield id(value), plain.data_ptr(), tuple(plain.shape), plain.stride(), str(plain.dtype)
        if plain.is_cpu and plain.nbytes <= SMALL_BYTES and _place(plain) not in inputs:
            yield plain.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
    elif container := next((base for base in CONTAINERS if issubclass(kind, base)), None):
        inner = (*dict.keys(value), *dict.values(value)) if container is dict else tuple(container.__iter__(value))
        yield kind, len(inner)
    else:
        yield id(value)
        inner = [_attribute(value, name) for name in _fields(kind)]
    for one in inner if depth < DEEPEST else ():
        yield from _values(one, inputs, depth + 1)


def _fields(kind: type) -> list[str]:
    """Of a dataclass."""
    declared = inspect.getattr_static(kind, "__dataclass_fields__", {})
    return list(declared) if type(declared) is dict else []


def _attribute(value: Any, name: str) -> Any:
    """What an object holds under a name, without a property or a function that it has for it."""
    found = inspect.getattr_static(value, name, None)
    try:
        return found.__get__(value) if type(found) is MemberDescriptorType else found  # of a class with slots
    except AttributeError:
        return None


def _place(value: Any) -> int:
    """Where the memory begins that a tensor is a part of; 0 for what has none of its own, as sparse and nested ones."""
    if type(value) in TENSORS and value.layout == torch.strided and not value.is_nested:
        return int(torch.Tensor.detach(value).untyped_storage().data_ptr())
    return 0
