"""Whether outputs have memory of their own."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from suite.measure.execute import shared_memory  # noqa: E402 - after the skip


def test_outputs_may_be_parts_of_one_allocation() -> None:
    both = torch.empty(30)
    assert shared_memory({"x": torch.ones(3)}, {"out": both[:20].view(4, 5), "lse": both[20:]}) is None


def test_outputs_that_overlap_are_named() -> None:
    both = torch.empty(30)
    assert shared_memory({}, {"out": both[:20], "lse": both[19:]}) == "lse with out"
    assert shared_memory({}, {"out": both.view(5, 6).t(), "lse": both[29:]}) == "lse with out"


def test_no_part_of_an_inputs_memory_is_an_output() -> None:
    x = torch.ones(30)
    assert shared_memory({"x": x[:10]}, {"out": x[20:]}) == "out with x"
    assert shared_memory({"x": x[:0]}, {"out": torch.ones(0), "lse": x}) is None
