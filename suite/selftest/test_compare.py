"""What an output may differ in from the reference's."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from kernels.problem import Tolerance  # noqa: E402 - after the skip
from suite.judge.check import ELEMENTS_PER_STRAY, compare  # noqa: E402

TOLERANCE = Tolerance(atol=1.0, rtol=0.0, relative_rms=1.0)


def fault_of(errors: list[float], elements: int, tolerance: Tolerance = TOLERANCE) -> str | None:
    expected = torch.ones(elements)
    actual = expected.clone()
    actual[: len(errors)] += torch.tensor(errors)
    return compare(actual, expected, tolerance)[1]


@pytest.mark.parametrize(("errors", "elements", "is_right"), [
    ([0.9] * 100, 1000, True),
    ([1.1], 1000, False),
    ([1.1], ELEMENTS_PER_STRAY - 1, False),
    ([1.1], ELEMENTS_PER_STRAY, True),
    ([1.1, 1.9], 2 * ELEMENTS_PER_STRAY, True),
    ([1.1, 1.9], 2 * ELEMENTS_PER_STRAY - 1, False),
    ([2.1], 2 * ELEMENTS_PER_STRAY, False),
    ([float("nan")], 2 * ELEMENTS_PER_STRAY, False),
    ([float("inf")], 2 * ELEMENTS_PER_STRAY, False),
])  # fmt: skip
def test_few_of_many_elements_may_stray_a_little(errors: list[float], elements: int, is_right: bool) -> None:
    assert (fault_of(errors, elements) is None) is is_right


def test_what_must_be_exact_has_no_strays() -> None:
    assert fault_of([1e-3], 2 * ELEMENTS_PER_STRAY, Tolerance(rtol=0.0, relative_rms=0.0)) is not None


def test_outputs_without_elements_are_right() -> None:
    nothing = torch.empty(0, 16, 64)
    assert compare(nothing, nothing, TOLERANCE) == ({"max_error": 0.0, "relative_rms": 0.0}, None)
