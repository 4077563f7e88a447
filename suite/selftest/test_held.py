"""Outputs that a caller holds: no later call may return their memory, or write to it at another address."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterator

import pytest

torch = pytest.importorskip("torch")

from kernels.mla.problem import MLADecode  # noqa: E402 - after the skip
from kernels.problem import Outputs  # noqa: E402
from suite.measure.caches import flush_and_touch  # noqa: E402
from suite.measure.held import second_call_fault  # noqa: E402
from suite.measure.tampering import Tampered  # noqa: E402


@pytest.fixture
def mapped() -> Iterator[Callable[[], Outputs]]:
    """A call that returns one memory, at another address each time."""
    file = os.memfd_create("outputs")
    os.ftruncate(file, mmap.PAGESIZE)

    def run() -> Outputs:
        memory = mmap.mmap(file, mmap.PAGESIZE, mmap.MAP_SHARED)
        return {"out": torch.frombuffer(memory, dtype=torch.float32, count=4).fill_(2.0)}

    yield run
    os.close(file)


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="Linux maps one memory twice so")
def test_one_memory_at_two_addresses_is_one(mapped: Callable[[], Outputs]) -> None:
    assert second_call_fault(mapped(), mapped) == (
        "wrong_form",
        "Its second call returned the memory that the first had returned: out.",
    )


def test_fresh_outputs_pass_and_the_first_stay_what_they_were() -> None:
    first = {"out": torch.full((3, 2), 5.0).t(), "count": torch.arange(3)}
    assert second_call_fault(first, lambda: {"out": torch.ones(2, 3), "count": torch.arange(3)}) is None
    assert first["out"].tolist() == [[5.0] * 3] * 2
    assert first["count"].tolist() == [0, 1, 2]


def test_what_is_read_to_flush_the_caches_must_be_what_it_was() -> None:
    problem = MLADecode(1, 1, 8, 1)
    before = flush_and_touch(problem, problem.make_inputs(0, "cpu"), "cpu", 1 << 20)
    before()
    (buffer,) = (c.cell_contents for c in before.__closure__ or () if isinstance(c.cell_contents, torch.Tensor))
    buffer[: len(buffer) // 2].zero_()  # as of pages that were dropped
    with pytest.raises(Tampered, match="to flush the caches"):
        before()
