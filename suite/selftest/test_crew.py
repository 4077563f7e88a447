"""Workers are replaced when what one case left behind, or somebody else did, would fall to the next."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from suite.device.detect import PROJECT_ROOT, choose
from suite.measure import crew as crews
from suite.measure.crew import Crew, RunError, UnfitError
from suite.measure.fence import limits_here
from suite.measure.process import WorkerError
from suite.selftest.machines import machine

RAN = {"status": "ran"}
OUT_OF_MEMORY = {"status": "failed", "reason": "out_of_memory", "sentence": "It ran out of memory: x", "poisoned": True}
KILLED = WorkerError("out_of_memory", "Its process was killed, as the kernel does when memory runs out.")
HUNG = WorkerError("hung", "It did not finish within 180 s and was killed.")


class Stub:
    """A worker that gives the answers of a script, over all workers of a crew."""

    script: list[Any]
    started: int
    """On the device; spares wait before that."""
    spawned: int
    held_bytes = 0

    def __init__(self, *arguments: Any) -> None:
        type(self).spawned += 1
        self.environment: dict[str, str] = {}
        self.limits = limits_here()

    def request(self, message: dict[str, Any], timeout_s: float, answer: Any = None) -> dict[str, Any]:
        if message["op"] == "start":
            type(self).started += 1
            if self.script[:1] != [HUNG]:
                return dict(RAN)
        answered = self.script.pop(0)
        if isinstance(answered, WorkerError):
            raise answered
        return dict(answered)

    def send(self, message: dict[str, Any]) -> None:
        assert message["op"] == "warm_up"

    def receive(self, timeout_s: float) -> dict[str, Any]:
        return dict(RAN)

    def memory_bytes(self) -> int:
        return self.held_bytes

    def kill(self) -> None:
        pass


@pytest.fixture
def crew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Crew:
    monkeypatch.setattr(crews, "Worker", Stub)
    Stub.started, Stub.spawned, Stub.script, Stub.held_bytes = 0, 0, [], 0
    return Crew(PROJECT_ROOT, choose("cpu", machine()), tmp_path / "log")


def ask(crew: Crew, *script: Any) -> dict[str, Any]:
    Stub.script = list(script)
    return crew.request("candidate", {"op": "warm_up"}, 1.0)


def test_memory_that_an_earlier_case_left_is_not_the_next_ones_fault(crew: Crew) -> None:
    assert ask(crew, RAN)["status"] == "ran"
    assert ask(crew, OUT_OF_MEMORY, RAN)["status"] == "ran"
    assert Stub.started == 2


def test_what_fails_behind_others_is_asked_again_alone_and_then_not_doubted(crew: Crew) -> None:
    raised = {"status": "failed", "reason": "raised", "sentence": "It raised OSError: Too many open files"}
    message = {"op": "warm_up", "kernel": "toy/a"}
    assert ask(crew, RAN)["status"] == "ran"
    assert ask(crew, raised, RAN)["status"] == "ran"  # an earlier case had left too many files open
    Stub.script = [raised, raised, RAN, raised]
    assert crew.request("candidate", message, 1.0)["status"] == "failed"
    assert Stub.started == 3
    assert crew.request("candidate", message, 1.0)["status"] == "ran"
    assert crew.request("candidate", message, 1.0)["status"] == "failed"
    assert Stub.script == []


@pytest.mark.parametrize("is_full", [True, False])
def test_a_full_disk_is_looked_at_before_it_is_believed(
    crew: Crew, monkeypatch: pytest.MonkeyPatch, is_full: bool
) -> None:
    monkeypatch.setattr(crews, "has_room", lambda folder: not is_full)
    said = {"status": "failed", "reason": "disk_full", "sentence": "The disk is full: [Errno 28] No space left"}
    Stub.script, message = [said], {"op": "check", "kernel": "toy/a"}
    if is_full:
        with pytest.raises(OSError, match=r"No space left while toy/a ran\. Make room in /"):
            crew.request("candidate", message, 1.0)
    else:
        assert crew.request("candidate", message, 1.0)["reason"] == "raised"


def test_a_case_that_takes_too_much_by_itself_is_asked_once(crew: Crew) -> None:
    assert ask(crew, OUT_OF_MEMORY)["reason"] == "out_of_memory"
    assert Stub.started == 1


def test_a_worker_that_somebody_killed_is_asked_again_and_then_believed(crew: Crew) -> None:
    assert ask(crew, KILLED, RAN)["status"] == "ran"
    assert ask(crew, KILLED, KILLED)["reason"] == "out_of_memory"


def test_a_worker_that_holds_too_much_is_replaced_before_the_next_case(crew: Crew) -> None:
    Stub.held_bytes = limits_here().memory_bytes
    assert ask(crew, RAN)["status"] == "ran"
    Stub.held_bytes = 0
    assert ask(crew, RAN)["status"] == "ran"
    assert ask(crew, RAN)["status"] == "ran"
    assert Stub.started == 2


def test_where_one_worker_was_replaced_another_waits_until_something_is_timed(crew: Crew) -> None:
    ask(crew, RAN)
    assert (Stub.started, Stub.spawned) == (1, 1)
    ask(crew, OUT_OF_MEMORY, RAN)  # in a second process; a third is ready
    assert (Stub.started, Stub.spawned) == (2, 3)
    crew.retire("candidate")
    ask(crew, RAN)
    assert (Stub.started, Stub.spawned) == (3, 4)
    crew.start("launch")
    assert not any(crew._spares.values())


def test_what_keeps_a_spare_from_starting_ends_nothing(crew: Crew, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(role: str, kernels: list[str]) -> None:
        raise OSError(28, "No space left on device")

    ask(crew, RAN)
    monkeypatch.setattr(crew, "_prepare_spare", fails)
    assert ask(crew, OUT_OF_MEMORY, RAN)["status"] == "ran"


def test_a_device_that_takes_no_worker_any_longer_is_nobodys_fault(crew: Crew) -> None:
    with pytest.raises(RunError, match="The candidate worker could not start: It did not finish") as never:
        ask(crew, HUNG, HUNG)
    assert not isinstance(never.value, UnfitError)
    assert ask(crew, RAN)["status"] == "ran"
    crew.retire("candidate")
    with pytest.raises(UnfitError):
        ask(crew, HUNG, HUNG)


def test_a_malformed_reply_is_tampering_and_ends_its_worker(crew: Crew) -> None:
    reply = ask(crew, {"status": "fine"})
    assert (reply["status"], reply["reason"]) == ("incorrect", "tampered")
    ask(crew, RAN)
    assert Stub.started == 2


def test_a_worker_that_started_while_the_crew_was_stopped_is_asked_nothing(
    crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start_late(worker: Stub) -> Stub:
        crew.stop()
        return worker

    monkeypatch.setattr(crew, "_started", start_late)
    monkeypatch.setattr(Stub, "pid", 1 << 30, raising=False)
    with pytest.raises(RunError, match="was ended"):
        ask(crew, RAN)
    assert Stub.script == [RAN]


def test_what_this_process_imports_later_does_not_look_like_a_change_of_the_tree(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Seen in a tree that was never imported before: pytest wrote what it had compiled, and a kernel was suspected."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    Crew(PROJECT_ROOT, choose("cpu", machine()), tmp_path / "log").close()
    assert sys.dont_write_bytecode
