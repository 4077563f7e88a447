"""The journal survives being cut anywhere; readers of anything give a document or a RecordError."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from suite.record.baseline import read_baseline, read_baselines
from suite.record.journal import MAX_TEXT_CHARS, Journal, JournalError, read_journal
from suite.record.run import JOURNAL_NAME, check_run, fold, read_run
from suite.record.schema import Kind, RecordError, load, parse
from suite.record.store import EvidenceStore
from suite.selftest.record_examples import make_events

pytestmark = pytest.mark.side_by_side

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
KINDS: tuple[Kind, ...] = ("run", "baseline", "manifest", "specs")


def written(path: Path, events: list[dict[str, Any]]) -> bytes:
    with Journal(path) as journal:
        for event in events:
            journal.append(event)
    return path.read_bytes()


def test_what_was_appended_is_read(tmp_path: Path) -> None:
    events = make_events()
    written(tmp_path / "journal.jsonl", events)
    assert read_journal(tmp_path / "journal.jsonl") == events


def test_cut_at_every_byte_it_is_read_folded_and_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # thousands of them, and no power fails here
    events = make_events(launches=1, times_us={"mla/flash_mla": 130.0, "mla/triton_split_kv": 100.0})
    whole = written(tmp_path / "whole.jsonl", events)
    ends = [index + 1 for index, byte in enumerate(whole) if byte == ord("\n")]
    path = tmp_path / "cut.jsonl"
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        survivors = events[: sum(end <= cut for end in ends)]
        assert read_journal(path) == survivors
        if survivors and cut in ends:
            check_run(fold(survivors), "the cut run")
        written(path, [{"event": "resume"}])
        assert read_journal(path) == [*survivors, {"event": "resume"}]


def test_a_cut_off_launch_keeps_what_it_measured() -> None:
    events = make_events(launches=2)
    until = max(i for i, event in enumerate(events) if event["event"] == "measurement") + 1
    first, second = fold(events[:until])["launches"]
    assert (first["complete"], second["complete"]) == (True, False)
    assert second["measurements"] == first["measurements"] or len(second["measurements"]) == 1
    assert second["environment"] == {"before": {"sm_mhz": 1980, "throttle_reasons": []}}


def test_a_damaged_line_in_the_middle_is_named(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    lines = written(path, make_events()).split(b"\n")
    path.write_bytes(b"\n".join([*lines[:3], b'{"event": "chec', *lines[4:]]))
    with pytest.raises(RecordError, match=r"journal\.jsonl: line 4: ends too early"):
        read_journal(path)


def test_an_append_that_failed_leaves_no_torn_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, write = tmp_path / "journal.jsonl", os.write

    def full_disk(descriptor: int, data: bytes) -> int:
        if len(data) < 40:
            raise OSError(28, "No space left on device")
        return write(descriptor, data[:20])

    with Journal(path) as journal:
        journal.append({"event": "start"})
        monkeypatch.setattr(os, "write", full_disk)
        with pytest.raises(JournalError, match=r"No space left on device.*Nothing before it is lost"):
            journal.append({"event": "check", "sentence": "x" * 60})
        monkeypatch.undo()
        journal.append({"event": "end"})
    assert [event["event"] for event in read_journal(path)] == ["start", "end"]


def test_an_interrupted_append_is_cut_off_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, write = tmp_path / "journal.jsonl", os.write

    def interrupted(descriptor: int, data: bytes) -> int:
        write(descriptor, data[:5])
        raise KeyboardInterrupt

    with Journal(path) as journal:
        journal.append({"event": "start"})
        monkeypatch.setattr(os, "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            journal.append({"event": "check"})
        monkeypatch.undo()
        journal.append({"event": "end"})
    assert [event["event"] for event in read_journal(path)] == ["start", "end"]


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    with Journal(tmp_path / "journal.jsonl"), pytest.raises(JournalError, match="another process is writing"):
        Journal(tmp_path / "journal.jsonl")


def test_a_folder_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(JournalError, match="cannot be opened"):
        Journal(tmp_path / "file" / "journal.jsonl")


def test_what_json_lacks_is_written_so_that_it_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    written(path, [{"event": "check", "error": float("nan"), "e": float("inf"), "text": "a\ud800" + "b" * 10_000}])
    (event,) = read_journal(path)
    assert event["error"] is None
    assert event["e"] is None
    assert event["text"].startswith("a?bbb")
    assert len(event["text"]) < MAX_TEXT_CHARS + 100


@settings(max_examples=60, deadline=None)
@given(event=st.dictionaries(st.text(max_size=8), JSON, max_size=4))
def test_whatever_is_appended_can_be_read(event: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        written(Path(folder, "journal.jsonl"), [{**event, "event": "check"}])
        assert len(read_journal(Path(folder, "journal.jsonl"))) == 1


def only_record_errors(read: Callable[[], object]) -> None:
    try:
        read()
    except RecordError:
        pass


@settings(max_examples=120, deadline=None)
@given(data=st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode()))
@example(data=b"[" * 100_000)
@example(data=b"9" * 100_000)
@example(data=b'{"a": 1e999}')
def test_parse_of_any_bytes(data: bytes) -> None:
    only_record_errors(lambda: parse(data, "fuzz"))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(value=JSON, kind=st.sampled_from(KINDS), data=st.data())
def test_readers_of_any_file(value: Any, kind: Kind, data: st.DataObject) -> None:
    document = {"schema": f"kernelgate.{kind}/1", **value} if isinstance(value, dict) else value
    lines = "\n".join(json.dumps(line) for line in data.draw(st.lists(JSON, max_size=3))) + "\n"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "baselines", "h200")
        folder.mkdir(parents=True)
        (folder / "mla.json").write_text(json.dumps(document))
        (folder / JOURNAL_NAME).write_text(lines)
        (folder / f"{'0' * 64}.jsonl").write_text(lines)
        only_record_errors(lambda: load(folder / "mla.json", kind))
        only_record_errors(lambda: read_baseline(folder / "mla.json"))
        only_record_errors(lambda: read_baselines(name, "h200"))
        only_record_errors(lambda: read_run(folder / "mla.json"))
        only_record_errors(lambda: read_run(folder))
        only_record_errors(lambda: EvidenceStore(folder).load("0" * 64))


@settings(max_examples=150, deadline=None)
@given(data=st.data(), junk=JSON)
def test_a_run_with_one_value_replaced_by_anything(data: st.DataObject, junk: Any) -> None:
    events = make_events(launches=1, times_us={"mla/flash_mla": 130.0, "mla/triton_split_kv": 100.0})
    event = data.draw(st.sampled_from(events))
    event[data.draw(st.sampled_from(sorted(event)))] = junk
    only_record_errors(lambda: check_run(fold(events), "fuzz"))
