"""Many share a device while nothing is timed; who times is alone."""

from __future__ import annotations

import threading
import time

from suite.measure.turns import Turns


def test_checks_overlap_and_timing_is_alone() -> None:
    turns, now, seen = Turns(), {"check": 0, "measure": 0}, set[tuple[int, int]]()
    guard = threading.Lock()

    def request(op: str) -> None:
        with turns.of(op):
            with guard:
                now[op] += 1
                seen.add((now["check"], now["measure"]))
            time.sleep(0.02)
            with guard:
                now[op] -= 1

    threads = [threading.Thread(target=request, args=("measure" if n % 4 == 3 else "check",)) for n in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(checks for checks, _ in seen) > 1
    assert all(measures == 0 or (checks, measures) == (0, 1) for checks, measures in seen)


def test_who_waits_to_be_alone_is_not_passed_for_ever() -> None:
    turns, order, may_end = Turns(), list[str](), threading.Event()

    def first() -> None:
        with turns.of("check"):
            may_end.wait(10)

    def later(op: str) -> None:
        with turns.of(op):
            order.append(op)

    threads = [threading.Thread(target=first)]
    threads[0].start()
    for op in ("measure", "check"):
        threads.append(threading.Thread(target=later, args=(op,)))
        threads[-1].start()
        time.sleep(0.05)  # it waits now
    may_end.set()
    for thread in threads:
        thread.join()
    assert order == ["measure", "check"]
