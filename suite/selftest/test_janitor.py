"""Whatever lies in a worker's folder, it goes; what a killed run leaves behind, its janitor ends and removes."""

from __future__ import annotations

import errno
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from suite.measure import folders, watch
from suite.measure.janitor import tidy_up
from suite.measure.process import Worker, WorkerError
from suite.measure.watch import TOKEN_NAME

PROJECT = Path(folders.__file__).parents[2]
DEADLINE_S = 30
PARENT = """
import os, sys, time
from pathlib import Path
from suite.measure.folders import new_folder
from suite.measure.process import Worker

folder = new_folder("kernelgate-", Path(sys.argv[1]))
worker = Worker(Path(sys.argv[2]), folder / "log")
print(worker.pid, worker._folder, folder, sep="|", flush=True)
time.sleep(600)
"""


def soon(is_so: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + DEADLINE_S
    while not is_so() and time.monotonic() < deadline:
        time.sleep(0.02)
    return is_so()


def test_deep_and_locked_folders_are_removed(tmp_path: Path) -> None:
    folder = folders.new_folder("kernelgate-", tmp_path)
    (folder / "locked").mkdir()
    (folder / "locked" / "file").write_text("")
    (folder / "locked").chmod(0)
    here = os.open(folder, os.O_RDONLY)
    for _ in range(1500):  # deeper than Python follows, and than a path can tell
        os.mkdir("deeper", dir_fd=here)
        inner = os.open("deeper", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(here)
    folders.remove(folder)
    assert not folder.exists()


@pytest.mark.parametrize(("code", "has_room"), [("ENOSPC", False), ("EDQUOT", False), ("EACCES", True)])
def test_a_disk_has_room_or_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, has_room: bool) -> None:
    def refuse(dir: str) -> None:  # noqa: A002 - tempfile's name for it
        raise OSError(getattr(errno, code), code)

    assert folders.has_room(tmp_path)
    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    assert folders.has_room(tmp_path) == has_room


@pytest.mark.skipif(sys.platform != "linux", reason="processes are found as Linux lists them")
def test_a_killed_run_leaves_no_process_and_no_folder(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PARENT, str(tmp_path), str(PROJECT)]
    with subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        pid, worker_folder, folder = parent.stdout.readline().strip().split("|")
        parent.kill()
    assert soon(lambda: not Path(folder).exists() and not Path(worker_folder).exists())
    assert soon(lambda: not watch._status(int(pid))[1])  # nobody may have asked for its exit status


@pytest.mark.skipif(sys.platform != "linux", reason="processes are found as Linux lists them")
def test_only_what_was_not_ended_is_tidied_up(tmp_path: Path) -> None:
    kept, left, token = tmp_path / "kept", tmp_path / "left", secrets.token_hex(16)
    kept.mkdir()
    left.mkdir()
    strays = subprocess.Popen(["sleep", "600"], env={TOKEN_NAME: token}, start_new_session=True)
    told = [[True, "folder", str(kept)], [True, "folder", str(left)], [True, "worker", "1073741824", token],
            [False, "folder", str(kept)]]  # fmt: skip
    tidy_up(map(json.dumps, told))
    assert strays.wait(DEADLINE_S) == -signal.SIGKILL
    assert (kept.exists(), left.exists()) == (True, False)


@pytest.mark.skipif(sys.platform != "linux", reason="processes are found as Linux lists them")
def test_a_process_is_known_from_its_first_moment() -> None:
    """Popen returns while the program is still put in place: one time in a hundred its environment is not there yet."""
    for _ in range(300):
        with subprocess.Popen(["sleep", "600"], env={"MARK": "known"}) as process:
            found = watch._environment(process.pid)
            process.kill()
        assert found == b"MARK=known\0"


@pytest.mark.skipif(sys.platform != "linux", reason="processes are found as Linux lists them")
def test_nobody_waits_for_a_process_without_an_environment() -> None:
    with subprocess.Popen(["sleep", "600"], env={}) as process:
        assert soon(lambda: not watch._is_taken_over(process.pid))
        assert watch._environment(process.pid) == b""
        process.kill()
        assert soon(lambda: not watch._status(process.pid)[1])  # it has ended, and nobody has asked for its exit status
        assert not watch._is_taken_over(process.pid)


def test_a_parent_that_was_stopped_does_not_call_its_worker_hung(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Clock:
        seconds = 0.0

        def monotonic(self) -> float:
            """Each look at it, 100 s have passed."""
            Clock.seconds += self.step_s
            return Clock.seconds

        step_s = 100.0

    worker = Worker(PROJECT, tmp_path / "log")
    monkeypatch.setattr("suite.measure.process.time", Clock())
    try:
        assert worker.request({"op": "echo", "nonce": "x"}, 10.0)["nonce"] == "x"
        Clock.step_s = 1.0
        os.kill(worker.pid, signal.SIGSTOP)
        worker.send({"op": "echo"})
        with pytest.raises(WorkerError, match="did not finish within 10 s"):
            worker.receive(10.0)
    finally:
        worker.kill()
