"""The digest that outputs are handed over with."""

from __future__ import annotations

import pytest

from suite.judge.digest import CHUNK_BYTES, digest


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES])
def test_any_changed_byte_and_any_length_changes_it(size: int) -> None:
    data = bytearray(size)
    first = digest(data)
    assert digest(bytes(data)) == first
    assert digest(data + b"\0") != first
    for place in {0, size // 2, size - 1} if size else ():
        data[place] = 1
        assert digest(data) != first
        data[place] = 0


def test_order_of_chunks_counts() -> None:
    one, two = bytes(CHUNK_BYTES), b"\1" * CHUNK_BYTES
    assert digest(one + two) != digest(two + one)
