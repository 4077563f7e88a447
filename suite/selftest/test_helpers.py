"""Threads that one kernel started and that compute while another is called are found, and whose they are."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator

import pytest

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


def call(helpers: Helpers, kernel: str, computes: threading.Event, busy: bool) -> None:
    helpers.call_begins()
    if busy:
        computes.set()
    time.sleep(CALL_S)
    helpers.call_ended(kernel, CALL_S * 1e6)
    computes.clear()


@pytest.mark.parametrize(
    ("owner", "busy_in", "culprit"),
    [("a", "b", "a"), ("a", "a", None), ("a", "", None), ("", "b", None)],
    ids=["beside another", "in its own calls", "asleep", "of nobody"],
)
def test_whose_thread_computes_beside_others(
    owner: str, busy_in: str, culprit: str | None, computes: threading.Event
) -> None:
    helpers = Helpers()
    helpers.claim(owner)
    for kernel in ("a", "b") * 3:
        call(helpers, kernel, computes, kernel == busy_in)
    assert helpers.culprit() == culprit
    assert helpers.culprit() is None
