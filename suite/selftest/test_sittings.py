"""Lanes at work side by side: what ends them, and what is told of it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from suite.device.detect import choose, detect
from suite.measure import adversaries
from suite.measure.crew import RunError
from suite.measure.sittings import Sittings


class Waits:
    """A lane that waits until it is stopped."""

    def __init__(self) -> None:
        self.stopped = threading.Event()

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        pass

    def judge(self, group: Any) -> list[Any]:
        assert self.stopped.wait(30)
        return [group]

    def stop(self) -> None:
        self.stopped.set()


class Fails(Waits):
    """A lane that fails, and after which somebody presses Ctrl-C."""

    def judge(self, group: Any) -> list[Any]:
        pressed = signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT)
        threading.Timer(0.2, *pressed).start()
        raise RunError("The device fell off the bus.")


def test_ctrl_c_does_not_hide_what_went_wrong_before_it() -> None:
    with pytest.raises(RunError, match="fell off the bus"):
        Sittings([Waits(), Fails()], [1, 2], lambda judged: None).hold()


def test_a_lane_that_is_stopped_while_its_trial_begins_judges_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def begun_late(*arguments: Any, **options: Any) -> Iterator[Any]:
        lane.stop()
        yield type("Trial", (), {"root": Path("nowhere")})

    monkeypatch.setattr(adversaries, "trial", begun_late)
    monkeypatch.setattr(adversaries, "audition", lambda *arguments: pytest.fail("it was judged"))
    some = next(a for a in adversaries.read_adversaries() if not a.honest)
    lane = adversaries._Lane(choose("cpu", detect()), [some], adversaries.courses_for("cpu"), None)
    with pytest.raises(RunError, match="was ended"):
        list(lane.judge([some]))
