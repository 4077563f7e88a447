"""Faults of the machine around a run, planted in a toy project: killed workers, full disks, clocks, a failing GPU."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from suite.record.run import read_run
from suite.record.schema import RecordError
from suite.selftest.toy_project import Outcome, ToyProject

KERNELS = ("toy/gen", "toy/hand", "toy/vendor")
DEADLINE_S = 120
STOPPED_S = 6.0

DISK = """
import errno, os, types
from suite.record import journal

class Disk(types.SimpleNamespace):
    full = False

    def write(self, descriptor, data):
        if Disk.full:
            os.write(descriptor, data[:7])  # a torn line
            raise OSError(errno.{code}, os.strerror(errno.{code}))
        Disk.full = b'"event":"measurement"' in data
        return os.write(descriptor, data)

journal.os = Disk(**{{name: getattr(os, name) for name in dir(os) if name != "write"}})
"""
"""For conftest.py: the disk holds the journal up to its first measurement."""
CLOCK = """
import itertools, time
from datetime import timedelta
from suite.record import schema

steps, real = itertools.count(), schema.datetime

class Stepping(real):
    @classmethod
    def now(cls, tz=None):
        return real.now(tz) - timedelta(hours=next(steps))  # an hour back each time that somebody looks

schema.datetime = Stepping
wall = time.time
time.time = lambda: wall() - 3600 * next(steps)
"""
"""For conftest.py: the wall clock steps backwards."""
DRIVER = """
from suite import bench
from suite.device import fitness
from suite.measure import campaign

snapshot, looks, answer = campaign.snapshot, [], {answer}

def recorded(*args):
    looks.append(1)
    return snapshot(*args) | (answer if len(looks) >= {look} else {{"xids": []}})

campaign.snapshot = recorded
told = fitness.why_unfit_after
bench.why_unfit_after = lambda run: told(run | {{"device": run["device"] | {{"kind": "cuda"}}}})
"""
"""For conftest.py: from its `look`-th look at the device on, the driver answers as recorded. Looks 3 and 4 belong to
launch 2."""
HOT = {"throttle_reasons": ["hw_thermal"], "temperature_c": 92, "sm_mhz": 1095}
LOST = {"xids": [79], "errors": ["sm_mhz: NVMLError_GpuIsLost: GPU is lost"]}


@dataclass(frozen=True)
class Result:
    """What became of one fault."""

    said: str
    others_measured: bool | None
    """None: nothing can be measured where nothing can be recorded."""
    journal_readable: bool
    status: int
    right: bool
    """Whether verdict and exit status are what they must be."""


def worker_killed(project: ToyProject) -> Result:
    """SIGKILL to one of the workers at random instants of a run."""
    rng, process, killed = random.Random(7), project.start("--run-dir", "runs/killed", "-m", "toy"), 0
    while process.poll() is None and killed < 3:
        time.sleep(rng.uniform(0.5, 3.0))
        for pid in rng.sample(pids := project.worker_pids(), min(1, len(pids))):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                killed += 1
    text, _ = process.communicate(timeout=DEADLINE_S)
    return _result(project, "killed", Outcome(process.returncode, text), f"{killed} workers killed, none blamed",
                   lambda run, status: status == 0 and killed > 0 and _all_judged(run))  # fmt: skip


def run_killed(project: ToyProject) -> Result:
    """SIGKILL to the whole run at a random instant, then --resume."""
    process = project.start("--run-dir", "runs/cut", "-m", "toy")
    time.sleep(random.Random(11).uniform(3.0, 6.0))
    process.kill()
    process.communicate()
    outcome = project.pytest("--resume", "runs/cut", "-m", "toy")
    if outcome.status == 4:  # it was killed before anything was recorded
        outcome = project.pytest("--run-dir", "runs/cut", "-m", "toy")
    return _result(project, "cut", outcome, "resumed; nothing measured twice",
                   lambda run, status: status == 0 and _all_judged(run) and _measured_once(run) and _tidied(run)
                   )  # fmt: skip


def run_cancelled(project: ToyProject) -> Result:
    """SIGTERM to the run, as CI cancels a job, and again while it ends; then --resume."""
    process = project.start("--run-dir", "runs/cancelled", "-m", "toy")
    _wait_for(project, "cancelled", "check")
    for _ in range(2):
        process.terminate()
        time.sleep(0.2)
    text, _ = process.communicate(timeout=DEADLINE_S)
    recorded = _read(project, "cancelled").get("exit_status")
    done = project.pytest("--resume", "runs/cancelled", "-m", "toy")
    said = _sentence("Nothing measured is lost")(Outcome(process.returncode, text))
    return _result(project, "cancelled", Outcome(done.status, text + done.text), said, lambda run, status: (
        process.returncode, recorded, status) == (2, 2, 0) and bool(said) and _all_judged(run))  # fmt: skip


def run_stopped(project: ToyProject) -> Result:
    """The run and its workers are stopped, as a container is paused, for longer than a case may take."""
    process = project.start("--run-dir", "runs/stopped", "-m", "toy")
    _wait_for(project, "stopped", "check")
    for how, then_s in ((signal.SIGSTOP, STOPPED_S), (signal.SIGCONT, 0.0)):
        for pid in (process.pid, *project.worker_pids()):
            os.kill(pid, how)
        time.sleep(then_s)
    text, _ = process.communicate(timeout=DEADLINE_S)
    return _result(project, "stopped", Outcome(process.returncode, text), "no kernel called hung",
                   lambda run, status: status == 0 and _all_judged(run))  # fmt: skip


def disk_full(project: ToyProject, code: str = "ENOSPC") -> Result:
    """The disk takes no more after the first measurement."""
    return _planted(project, code.lower(), DISK.format(code=code), _sentence("cannot be written"), status=3)


def disk_read_only(project: ToyProject) -> Result:
    """The file system turns read-only after the first measurement."""
    return disk_full(project, "EROFS")


def folder_read_only(project: ToyProject) -> Result:
    """The run directory cannot be made."""
    outcome = project.pytest("--run-dir", "/proc/kernelgate", "-m", "toy")
    said = _sentence("cannot be opened")(outcome)
    return Result(said, None, True, outcome.status, outcome.status == 4 and bool(said))


def clock_steps(project: ToyProject) -> Result:
    """The wall clock steps back by an hour each time that it is read."""
    return _planted(project, "clock", CLOCK, lambda outcome: "durations come from the monotonic clock", status=0,
                    check=lambda run: _all_judged(run) and all(s >= 0 for s in run["phases_s"].values()))  # fmt: skip


def gpu_hot(project: ToyProject) -> Result:
    """The device is throttled by heat in launch 2 (a driver's recorded answer)."""
    return _unfit(project, "hot", HOT, "throttled")


def gpu_lost(project: ToyProject) -> Result:
    """The device falls off its bus in launch 2 (a driver's recorded answer)."""
    return _unfit(project, "lost", LOST, "fallen off its bus")


SCENARIOS: dict[str, Callable[[ToyProject], Result]] = {
    "worker killed at any instant": worker_killed,
    "run killed at any instant": run_killed,
    "run cancelled": run_cancelled,
    "run stopped for a while": run_stopped,
    "full disk": disk_full,
    "disk turns read-only": disk_read_only,
    "read-only run directory": folder_read_only,
    "wall clock steps": clock_steps,
    "GPU throttles": gpu_hot,
    "GPU falls off the bus": gpu_lost,
}


def _unfit(project: ToyProject, name: str, answer: dict[str, Any], words: str) -> Result:
    """The run says that its runner is unfit, names the launch, and blames no kernel."""
    planted = DRIVER.format(answer=answer, look=4)
    return _planted(project, name, planted, lambda outcome: str(_read(project, name).get("unfit")), status=None,
                    check=lambda run: words in str(run["unfit"]) and "launch 2" in run["unfit"])  # fmt: skip


def _planted(
    project: ToyProject, name: str, lines: str, said: Callable[[Outcome], str], status: int | None,
    check: Callable[[dict[str, Any]], bool] = lambda run: True,
) -> Result:  # fmt: skip
    """A run under a conftest.py that plants the fault; `status` is the exit status that it must have."""
    before = project.add_to_conftest(lines)
    try:
        outcome = project.pytest("--run-dir", f"runs/{name}", "-m", "toy")
    finally:
        (project.root / "conftest.py").write_text(before)
    return _result(project, name, outcome, said(outcome),
                   lambda run, found: status in (None, found) and check(run))  # fmt: skip


def _result(
    project: ToyProject, name: str, outcome: Outcome, said: str, check: Callable[[dict[str, Any], int], bool]
) -> Result:
    run = _read(project, name)
    clean = "Traceback" not in outcome.text and "INTERNALERROR" not in outcome.text and not _left_over(project)
    launches = run.get("launches", ())
    measured = {kernel for launch in launches for m in launch["measurements"] for kernel in m["times_us"]}
    return Result(
        said=said,
        others_measured=set(KERNELS) <= measured,
        journal_readable=bool(run) and bool(project.events(name)),
        status=outcome.status,
        right=clean and bool(run) and check(run, outcome.status),
    )


def _read(project: ToyProject, name: str) -> dict[str, Any]:
    try:
        return read_run(project.root / "runs" / name)
    except RecordError:
        return {}


def _left_over(project: ToyProject) -> list[int]:
    """Workers that outlive their run; they may take a moment to die with it."""
    deadline = time.monotonic() + 10
    while (pids := project.worker_pids()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return pids


def _sentence(words: str) -> Callable[[Outcome], str]:
    """The sentence of the output that holds `words`."""

    def find(outcome: Outcome) -> str:
        text = " ".join(outcome.text.split())
        found = next((part for part in text.split(". ") if words in part), "")
        return found[-200:].strip()

    return find


def _all_judged(run: dict[str, Any]) -> bool:
    """Whether every kernel got a verdict of its own, and none was blamed."""
    return {v["kernel"] for v in run["verdicts"]} >= set(KERNELS) - {"toy/vendor"} and not any(
        v["status"] in ("failed", "incorrect", "regressed") for v in run["verdicts"]
    )


def _wait_for(project: ToyProject, name: str, event: str) -> None:
    """Until the journal of a run holds such an event."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline and not any(e["event"] == event for e in project.events(name)):
        time.sleep(0.02)


def _tidied(run: dict[str, Any]) -> bool:
    """Whether the memory that a run's outputs took was given back."""
    return not list(Path("/dev/shm").glob(f"kernelgate-{run['run_id']}*"))


def _measured_once(run: dict[str, Any]) -> bool:
    pairs = [(launch["launch"], m["problem"]) for launch in run["launches"] for m in launch["measurements"]]
    return len(pairs) == len(set(pairs))


def make_project(root: Path) -> ToyProject:
    """The toy project with its own kernels only, all of them sound."""
    return ToyProject.make(root)
