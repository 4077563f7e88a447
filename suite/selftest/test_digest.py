"""The digest that outputs are handed over with."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from suite.judge.digest import CHUNK_BYTES, digest, read_digested, write_digested


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


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES])
def test_what_is_written_is_read_with_the_same_digest(tmp_path: Path, size: int) -> None:
    data = random.Random(size).randbytes(size)
    written = write_digested(tmp_path / "x", data)
    assert (tmp_path / "x").read_bytes() == data
    into = bytearray(size)
    assert written == digest(data) == read_digested(str(tmp_path / "x"), into)
    assert into == data


@pytest.mark.parametrize("plant", [
    lambda path: path.write_bytes(b"12345"),
    lambda path: path.write_bytes(b"123"),
    lambda path: path.mkdir(),
    os.mkfifo,
    lambda path: path.symlink_to("/etc/hostname"),
    lambda path: None,
])  # fmt: skip
def test_what_is_no_file_of_that_size_is_not_read(tmp_path: Path, plant: Callable[[Path], object]) -> None:
    plant(tmp_path / "x")
    assert read_digested(str(tmp_path / "x"), bytearray(4)) is None


def test_a_longer_file_is_written_over(tmp_path: Path) -> None:
    write_digested(tmp_path / "x", b"123456")
    write_digested(tmp_path / "x", b"12")
    assert (tmp_path / "x").read_bytes() == b"12"
