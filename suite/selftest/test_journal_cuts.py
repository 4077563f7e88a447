"""A journal that is cut anywhere and gone on with ends in the record that it would have ended in."""

from __future__ import annotations

import copy
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from suite.record import run as run_record
from suite.record.journal import Journal, read_journal
from suite.record.run import JOURNAL_NAME, check_run, fold, read_run, write_run
from suite.selftest.record_examples import PROBLEM, make_events, make_verdict
from suite.selftest.test_fuzz_readers import refusal

pytestmark = pytest.mark.side_by_side

Events = list[dict[str, Any]]
TIMES_US = {"mla/flash_mla": 130.0, "mla/triton_split_kv": 100.0}


def resumed(path: Path, whole: Events) -> Events:
    """What --resume does: go on after the last event that is whole, with the events that are still to come."""
    survivors = read_journal(path)
    assert survivors == whole[: len(survivors)]
    with Journal(path) as journal:
        journal.extend(whole[len(survivors) :])
    return read_journal(path)


@pytest.fixture
def no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # no power fails here


def every_kind() -> Events:
    """A journal that holds an event of each kind."""
    events = make_events(launches=2, times_us={"mla/flash_mla": 130.0})
    launch = next(e["launch"] for e in events if e["event"] == "launch_start")
    failure = {"kernel": "mla/flash_mla", "problem": PROBLEM, "reason": "crashed", "sentence": "It died."}
    place = next(i for i, e in enumerate(events) if e["event"] == "launch_end")
    events.insert(place, {"event": "failure", "launch": launch, **failure})
    events.insert(place, {"event": "resume", "started_utc": "2026-11-01T19:00:00Z", "command": ["pytest"]})
    events.insert(1, {"event": "canary", "canary": {"timer": "graph_records", "unfit": None, "note": "é"}})
    events[-2]["verdicts"] = [make_verdict("mla/flash_mla", "mla/flash_mla", 1.5)]
    return events


def test_every_kind_of_event_is_among_those_that_are_cut() -> None:
    assert {event["event"] for event in every_kind()} == {"start", *run_record._FOLDS}


@pytest.mark.usefixtures("no_sync")
def test_cut_at_every_byte_the_same_run_comes_out(tmp_path: Path) -> None:
    events = every_kind()
    path = tmp_path / JOURNAL_NAME
    with Journal(path) as journal:
        journal.extend(events)
    whole, record = path.read_bytes(), fold(events)
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        assert resumed(path, events) == events, f"cut at byte {cut}"
    assert check_run(fold(read_journal(path)), "whole") == record


TEXTS = st.text(max_size=30) | st.sampled_from(["\x00", "\ud800", "\u2028", '"}\n{', "\r\n", "\x1b[31m", "ä" * 20])
NUMBERS = st.floats(1e-3, 1e6) | st.integers(1, 10**6)


@st.composite
def journals(draw: st.DrawFn) -> Events:
    """A run of some launches, whose kernels fail, print and measure as they like."""
    events = make_events(launches=draw(st.integers(0, 3)), times_us=TIMES_US, noise=draw(st.floats(0, 0.5)))
    for event in events:
        if event["event"] == "check":
            event["sentence"] = draw(st.none() | TEXTS)
            event["errors"] = {"out": {"max_error": draw(st.none() | st.floats())}}
        elif event["event"] == "measurement":
            event["notes"] = draw(st.lists(TEXTS, max_size=3))
            event["host_us"] = dict.fromkeys(TIMES_US, draw(NUMBERS))
    launches = [event["launch"] for event in events if event["event"] == "launch_start"]
    for launch in draw(st.lists(st.sampled_from(launches), max_size=3)) if launches else []:
        place = next(i for i, e in enumerate(events) if e["event"] == "launch_end" and e["launch"] == launch)
        failure = {"kernel": draw(st.sampled_from([None, *TIMES_US])), "problem": PROBLEM, "reason": "crashed"}
        events.insert(place, {"event": "failure", "launch": launch, **failure, "sentence": draw(TEXTS)})
    verdict = make_verdict("mla/triton_split_kv", "mla/flash_mla", draw(st.floats(0.1, 10)))
    events[-2]["verdicts"] = [verdict | {"sentence": draw(TEXTS)}] * draw(st.integers(0, 2))
    return events


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(events=journals(), data=st.data())
def test_any_journal_cut_anywhere_ends_in_the_same_record(events: Events, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name, JOURNAL_NAME)
        with Journal(path) as journal:
            journal.extend(events)
        whole, stored = path.read_bytes(), read_journal(path)
        record = check_run(fold(stored), "whole")
        for cut in sorted(data.draw(st.lists(st.integers(0, len(whole)), min_size=1, max_size=5)), reverse=True):
            path.write_bytes(whole[:cut])
            assert resumed(path, stored) == stored
        assert read_run(name) == record
        write_run(name, copy.deepcopy(record))
        assert read_run(name) == record


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(events=journals(), data=st.data())
def test_a_run_cut_after_any_event_is_a_record_or_a_sentence(events: Events, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as name:
        with Journal(Path(name, JOURNAL_NAME)) as journal:
            journal.extend(events[: data.draw(st.integers(0, len(events)))])
        said = refusal(lambda: read_run(name))
        assert said is None or "$." in said or "holds no event" in said


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_one_flipped_byte_is_a_sentence_or_another_value(data: st.DataObject) -> None:
    events = make_events(launches=1, times_us=TIMES_US)
    with tempfile.TemporaryDirectory() as name:
        path = Path(name, JOURNAL_NAME)
        with Journal(path) as journal:
            journal.extend(events)
        whole = bytearray(path.read_bytes())
        for place in data.draw(st.lists(st.integers(0, len(whole) - 1), min_size=1, max_size=4)):
            whole[place] = data.draw(st.integers(0, 255))
        path.write_bytes(bytes(whole))
        assert len(refusal(lambda: read_run(name)) or "") < 3000
