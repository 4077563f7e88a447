"""What a kernel holds between its calls is its own."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from kernels.problem import Inputs  # noqa: E402 - after the skip
from suite.device.timer import TimedCall  # noqa: E402
from suite.measure.blame import culprit  # noqa: E402
from suite.measure.possessions import left_alone  # noqa: E402
from suite.measure.tampering import Tampered  # noqa: E402


class Library:
    """An object of a library, which may change by itself."""

    def __init__(self) -> None:
        self.calls = 0


@dataclass
class Plan:
    tiles: int = 4
    table: dict[str, list[int]] = field(default_factory=lambda: {"sizes": [1, 2]})
    pages: Any = field(default_factory=lambda: torch.arange(4))
    library: Library = field(default_factory=Library)


def flush(buffer: Any) -> Callable[[], None]:
    """What stands before every call."""

    def before() -> None:
        buffer.amax()

    return before


def rival() -> tuple[Inputs, Plan, dict[str, list[TimedCall]]]:
    given, plan = {"x": torch.ones(2, 3)}, Plan()
    call = TimedCall(functools.partial(dict, given, plan), flush(torch.ones(8)))
    return given, plan, {"toy/rival": [call], "toy/own": []}


CHANGES: dict[str, Callable[[Inputs, Plan, TimedCall], Any]] = {
    "another input": lambda given, plan, call: given.update(x=given["x"].clone()),
    "an input more": lambda given, plan, call: given.update(y=given["x"]),
    "other strides": lambda given, plan, call: given["x"].t_(),
    "a number": lambda given, plan, call: setattr(plan, "tiles", 1),
    "a table": lambda given, plan, call: plan.table["sizes"].append(3),
    "content of an index": lambda given, plan, call: plan.pages.zero_(),
    "a function within": lambda given, plan, call: call.run.__setstate__((list, (given, plan), {}, {})),  # type: ignore[attr-defined]
    "less to flush": lambda given, plan, call: call.before.__closure__[0].cell_contents.resize_(1),  # type: ignore[index]
    "another function": lambda given, plan, call: setattr(call, "run", functools.partial(list, given, plan)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_blamed_on_who_made_it(change: str) -> None:
    given, plan, calls = rival()
    with (
        pytest.raises(Tampered, match="changed what toy/rival had planned") as caught,
        left_alone("toy/own", calls, "x"),
    ):
        CHANGES[change](given, plan, calls["toy/rival"][0])
    assert culprit(caught.value) == {"kernel": "toy/own"}


@pytest.mark.parametrize("change", CHANGES)
def test_its_own_it_may_change(change: str) -> None:
    given, plan, calls = rival()
    with left_alone("toy/rival", calls, "x"):
        CHANGES[change](given, plan, calls["toy/rival"][0])


def test_inputs_are_drawn_and_libraries_count_without_a_change() -> None:
    given, plan, calls = rival()
    plan.pages = given["x"].t()  # of inputs' memory
    with left_alone("toy/own", calls, "x"):
        given["x"].zero_()
        plan.library.calls += 1


def test_a_plan_may_hold_tensors_without_memory_of_their_own() -> None:
    _, plan, calls = rival()
    jagged = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged)
    for odd in (torch.eye(3).to_sparse(), jagged, torch.empty(0)):
        plan.pages = odd
        with left_alone("toy/own", calls, "x"):
            pass


class Acts(dict[str, int]):
    """Has code of its own for whatever it is asked."""

    asked: list[str] = []  # noqa: RUF012 - that is the point

    def __iter__(self) -> Any:
        self.asked.append("items")
        return iter(())

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        self.asked.append("class")
        return Acts


@dataclass
class Declared:
    tiles: Any = 4

    def __getattribute__(self, name: str) -> Any:
        Acts.asked.append(name)
        return object.__getattribute__(self, name)


def test_nothing_of_a_kernels_own_runs_when_its_plan_is_looked_at() -> None:
    _, plan, calls = rival()
    Acts.asked.clear()
    plan.pages.untyped_storage = plan.pages.data_ptr = lambda: Acts.asked.append("tensor")
    plan.library, plan.table = Declared(), Acts()  # type: ignore[assignment]
    Acts.asked.clear()
    with left_alone("toy/own", calls, "x"):
        pass
    assert Acts.asked == []
