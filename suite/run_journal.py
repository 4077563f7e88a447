"""The journal of one run: begun or gone on with, kept in memory as well, folded into the record when asked."""

from __future__ import annotations

import json
import platform
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from .device.detect import ChosenDevice
from .judge.bands import MOST_LAUNCHES
from .record.journal import Journal, read_journal
from .record.run import JOURNAL_NAME, RUN_NAME, check_run, fold, write_run
from .record.schema import MAX_INTEGER, RecordError, now_utc, schema_version
from .record.source import source_state


@dataclass(frozen=True)
class Options:
    """What the command line asked for, beyond the selection."""

    root: Path
    tier: str
    run_dir: Path
    command: tuple[str, ...]
    resume: bool = False
    strict: bool = False
    base: tuple[str, str, Path] | None = None
    """The ref as given, its SHA, and the folder that its tree was checked out to."""
    input_seed: int | None = None
    """What an earlier run's inputs were drawn from, its environment's `seed`; by default a new one."""
    max_launches: int = MOST_LAUNCHES
    """What is undecided after so many is inconclusive."""


class RunJournal:
    """Appends events to the run's journal, on disk first: what is remembered was not lost."""

    def __init__(self, options: Options, chosen: ChosenDevice, families: Iterable[str]) -> None:
        """Begin a run, or go on with one. RecordError where it cannot be resumed, or not written."""
        self.run_dir = options.run_dir
        path = options.run_dir / JOURNAL_NAME
        if path.exists() != options.resume:
            lacks = "holds no run that could go on. Begin one with --run-dir"
            has = "a run was recorded here. Name another --run-dir, or go on with it: --resume"
            raise RecordError(f"{path}: {lacks if options.resume else has}.")
        self._journal = Journal(path)  # from here on nobody else writes to it
        self._run: dict[str, Any] = {}
        self._folded_events = 0
        try:
            self.events = _events_to_resume(path, options, chosen) if options.resume else []
        except RecordError:
            self._journal.close()
            raise
        if self.events:
            (options.run_dir / RUN_NAME).unlink(missing_ok=True)  # readers take the journal until this run ends
            self.append({"event": "resume", "started_utc": now_utc(), "command": list(options.command)})
        else:
            self.append(_start(options, chosen, sorted(families)))

    @property
    def run_id(self) -> str:
        """Unique id of the run."""
        return str(self.events[0]["run_id"])

    @property
    def seed(self) -> int:
        """What all inputs of the run are drawn from."""
        return int(self.events[0]["environment"]["seed"])

    def append(self, event: dict[str, Any]) -> None:
        """Write one event to disk and remember it. JournalError where it cannot be written."""
        self._journal.append(event)
        self.events.append(json.loads(json.dumps(event)))

    def run(self) -> dict[str, Any]:
        """The record so far, to be read only; folded anew when events have come."""
        if self._folded_events != len(self.events):
            self._run, self._folded_events = fold(self.events), len(self.events)
        return self._run

    def close(self) -> Path:
        """Write run.json. RecordError where it cannot be; the journal then holds everything still."""
        self._journal.close()
        return write_run(self.run_dir / RUN_NAME, self.run())  # the folder itself may be gone


def _events_to_resume(path: Path, options: Options, chosen: ChosenDevice) -> list[dict[str, Any]]:
    """Of a journal that makes a sound record, whose run can go on here; none where it was cut off before it began."""
    events = read_journal(path)
    if events:
        run = check_run(fold(events), str(path))
        _check_same(run, options, chosen)
        if not isinstance(run["environment"].get("seed"), int):
            raise RecordError(
                f"{path}: $.environment.seed is no integer, so its inputs cannot be drawn. Measure again."
            )
    return events


def _start(options: Options, chosen: ChosenDevice, families: list[str]) -> dict[str, Any]:
    stamp = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    return {
        "event": "start",
        "schema": schema_version("run"),
        "run_id": f"{stamp}-{chosen.key}-{secrets.token_hex(3)}",
        "started_utc": now_utc(),
        "command": list(options.command),
        "tier": options.tier,
        "families": families,
        "source": source_state(options.root),
        "base": {"ref": options.base[0], "git_sha": options.base[1]} if options.base else None,
        "device": chosen.record(),
        "environment": environment(chosen) | {"seed": _seed(options)},
    }


def _seed(options: Options) -> int:
    """Fresh in every run, so that no kernel can know the inputs."""
    seed = secrets.randbelow(1 << 48) if options.input_seed is None else options.input_seed
    if not 0 <= seed <= MAX_INTEGER:
        raise RecordError(f"--input-seed {seed}: name the environment.seed of a run.json, which lies in 0 to 2**64.")
    return seed


def _check_same(start: dict[str, Any], options: Options, chosen: ChosenDevice) -> None:
    """A run goes on where it began: same device, versions, tier, code and base."""
    state = source_state(options.root)
    base = {"ref": options.base[0], "git_sha": options.base[1]} if options.base else None
    for what, then, now in (
        ("device", start["device"]["key"], chosen.key),
        ("GPU", start["device"]["uuid"], chosen.uuid),
        *((name, start["environment"].get(name), version) for name, version in environment(chosen).items()),
        ("tier", start["tier"], options.tier),
        ("base", start["base"], base),
        ("code (hash of kernels/ and suite/)", start["source"]["tree_sha256"], state["tree_sha256"]),
    ):
        if then != now:
            sentence = f"{options.run_dir}: cannot be resumed, its {what} was {then} and is now {now}."
            raise RecordError(f"{sentence} Restore it, or start a new run.")


def environment(chosen: ChosenDevice) -> dict[str, Any]:
    """Versions of whatever a time may depend on."""
    found = {"python": platform.python_version(), "os": f"{platform.system()} {platform.release()}"}
    for package in ("torch", "triton", "numpy"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found | {k: str(v) for k, v in chosen.facts.items() if k in ("driver", "runtime", "partition_mode", "isa")}
