"""Who gives memory back to the system in most of its calls is named; who keeps or exchanges its own is not."""

from __future__ import annotations

import mmap

import pytest

pytest.importorskip("torch")

from suite.measure import given_back
from suite.measure.given_back import NOTICED_BYTES, GivenBack, private_bytes

CALLS = ("toy/a", "toy/b", "toy/b", "toy/a") * 5
STEP = 2 * NOTICED_BYTES


@pytest.mark.parametrize(("changes", "guilty"), [({"toy/a": 0, "toy/b": 0}, None),
                                                 ({"toy/a": -STEP, "toy/b": STEP}, "toy/a"),
                                                 ({"toy/a": STEP, "toy/b": -STEP}, "toy/b"),
                                                 ({"toy/a": -STEP // 4, "toy/b": STEP // 4}, None)])  # fmt: skip
def test_who_gives_memory_back_whenever_it_is_called_is_named(
    changes: dict[str, int], guilty: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, watched = [100 * STEP], GivenBack()
    monkeypatch.setattr(given_back, "private_bytes", lambda: held[0])
    for kernel in CALLS:
        watched.call_begins(kernel)
        held[0] += changes[kernel]
    assert watched.culprit() == guilty


def test_what_happens_behind_everyone_is_nobodys_doing(monkeypatch: pytest.MonkeyPatch) -> None:
    held, watched = [100 * STEP], GivenBack()
    monkeypatch.setattr(given_back, "private_bytes", lambda: held[0])
    for kernel in CALLS:
        watched.call_begins(kernel)
        held[0] -= STEP
    assert watched.culprit() is None


def test_once_is_no_habit(monkeypatch: pytest.MonkeyPatch) -> None:
    held, watched = [100 * STEP], GivenBack()
    monkeypatch.setattr(given_back, "private_bytes", lambda: held[0])
    for number, kernel in enumerate(CALLS):
        watched.call_begins(kernel)
        held[0] -= STEP if number == 4 else 0
    assert watched.culprit() is None


@pytest.mark.skipif(not private_bytes(), reason="Linux tells it")
def test_memory_of_this_process_is_counted() -> None:
    before, size = private_bytes(), 4 * NOTICED_BYTES
    with mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as fresh:
        fresh.write(b"x" * size)
        assert private_bytes() > before + NOTICED_BYTES
