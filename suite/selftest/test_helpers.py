"""Threads that a kernel started and that compute elsewhere than in its calls are found, and whose they are."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator

import pytest

from suite.measure import helpers as watched
from suite.measure.helpers import Helpers

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="threads are looked at as Linux lists them")
CALL_S = 0.1


@pytest.fixture
def computes() -> Iterator[threading.Event]:
    """While it is set, a thread that the test starts by setting it computes."""
    event, end = threading.Event(), threading.Event()

    def work() -> None:
        while not end.is_set():
            sum(range(1000)) if event.is_set() else time.sleep(0.005)

    thread = threading.Thread(target=work)
    thread.start()
    yield event
    end.set()
    thread.join()


def call(helpers: Helpers, kernel: str, computes: threading.Event, busy: bool, ahead: bool) -> None:
    helpers.draw_begins()
    if ahead:
        computes.set()
    time.sleep(CALL_S)
    computes.clear()
    time.sleep(CALL_S / 10)
    helpers.call_begins(kernel)
    if busy:
        computes.set()
    time.sleep(CALL_S)
    helpers.call_ended(kernel, CALL_S * 1e6)
    computes.clear()


@pytest.mark.parametrize(
    ("owner", "busy_in", "ahead_of", "culprit"),
    [("a", "b", "", "a"), ("a", "a", "", None), ("a", "", "", None), ("", "b", "", None), ("a", "", "a", "a")],
    ids=["beside another", "in its own calls", "asleep", "of nobody", "ahead of its own"],
)
def test_whose_thread_computes_when_it_must_not(
    owner: str, busy_in: str, ahead_of: str, culprit: str | None, computes: threading.Event
) -> None:
    helpers = Helpers()
    helpers.claim(owner)
    for kernel in ("a", "b") * 3:
        call(helpers, kernel, computes, kernel == busy_in, kernel == ahead_of)
    assert helpers.culprit() == culprit
    assert helpers.culprit() is None


MAIN, POOL = (7, 7, 0), (7, 9, 1)


@pytest.mark.parametrize(
    ("owner", "share", "culprit"),
    [("a", 0.9, "a"), ("a", 0.2, None), ("", 0.9, None)],
    ids=["busy", "spins", "nobodys"],
)
def test_threads_without_python_rest_while_no_kernel_is_called(
    owner: str, share: float, culprit: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    had_ns = {MAIN: 0.0, POOL: 0.0}
    monkeypatch.setattr(watched, "_main_task", lambda: MAIN)
    monkeypatch.setattr(watched, "_tasks", list)
    monkeypatch.setattr(watched, "_compiled_tasks", lambda known: [POOL])
    monkeypatch.setattr(watched, "_busy_ns", lambda task: int(had_ns[task]))
    helpers = Helpers()
    helpers.claim(owner)
    for _ in range(3):
        helpers.rest_begins()
        had_ns[MAIN] += 1e7
        had_ns[POOL] += share * 1e7
        helpers.rest_ends()
    assert helpers.culprit() == culprit


def test_a_thread_past_python_is_among_those_without_it(computes: threading.Event) -> None:
    helpers = Helpers()
    helpers.claim("")
    python = {thread for _, thread, _ in helpers.owners}
    assert not python & {thread for _, thread, _ in helpers.compiled}
    assert all(thread != watched._main_task()[1] for _, thread, _ in helpers.compiled)
