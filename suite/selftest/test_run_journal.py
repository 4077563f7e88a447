"""A run goes on from a sound journal of its own only; whatever else lies there is left as it is, and told."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from suite import run_journal
from suite.device.detect import choose
from suite.record.journal import Journal, JournalError
from suite.record.run import read_run
from suite.record.schema import RecordError
from suite.run_journal import Options, RunJournal
from suite.selftest.machines import machine

CHOSEN = choose("cpu", machine())
Events = list[dict[str, Any]]
DAMAGE: dict[str, Callable[[Events], object]] = {
    "a check without a kernel": lambda events: events.append({"event": "check", "x": "y" * 10_000}),
    "an event of another version": lambda events: events.append({"event": "later"}),
    "a later schema": lambda events: events[0].update(schema="kernelgate.run/99"),
    "no id": lambda events: events[0].pop("run_id"),
    "an id that is a path": lambda events: events[0].update(run_id="../../evil"),
    "no seed": lambda events: events[0]["environment"].update(seed=None),
    "another machine": lambda events: events[0]["device"].update(key="cpu-other"),
    "other code": lambda events: events[0]["source"].update(tree_sha256="0" * 64),
}


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Options:
    state = {"git_sha": None, "dirty": None, "tree_sha256": "1" * 64}
    monkeypatch.setattr(run_journal, "source_state", lambda root: state)
    return Options(tmp_path, "smoke", tmp_path / "run", ("pytest",))


def resumed(options: Options) -> Options:
    return Options(options.root, options.tier, options.run_dir, options.command, resume=True)


def test_a_sound_journal_is_gone_on_with(options: Options) -> None:
    RunJournal(options, CHOSEN, ["toy"]).close()
    again = RunJournal(resumed(options), CHOSEN, ["toy"])
    assert [event["event"] for event in again.events] == ["start", "resume"]
    with pytest.raises(JournalError, match="another process is writing to it"):
        RunJournal(resumed(options), CHOSEN, ["toy"])


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_another_one_is_refused_and_left_as_it_is(options: Options, damage: Callable[[Events], object]) -> None:
    begun = RunJournal(options, CHOSEN, ["toy"])
    begun.close()
    events, path = begun.events, options.run_dir / "journal.jsonl"
    damage(events)
    path.write_text("".join(json.dumps(event) + "\n" for event in events))
    before = path.read_bytes()
    with pytest.raises(RecordError) as refusal:
        RunJournal(resumed(options), CHOSEN, ["toy"])
    assert str(refusal.value).isprintable()
    assert path.read_bytes() == before
    assert (options.run_dir / "run.json").exists()
    Journal(path).close()  # nobody holds it


@pytest.mark.parametrize("seed", [-1, 1 << 65])
def test_a_seed_that_no_record_can_hold_is_refused(options: Options, seed: int) -> None:
    with pytest.raises(RecordError, match="--input-seed"):
        RunJournal(Options(options.root, "smoke", options.run_dir, (), input_seed=seed), CHOSEN, [])


def test_a_run_whose_folder_was_removed_is_recorded_in_a_new_one(options: Options) -> None:
    begun = RunJournal(options, CHOSEN, ["toy"])
    shutil.rmtree(options.run_dir)
    assert begun.close() == options.run_dir / "run.json"
    assert read_run(options.run_dir)["run_id"] == begun.run_id
