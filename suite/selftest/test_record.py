"""Schemas, runs, evidence and the source's identity: what is refused, and with which sentence."""

from __future__ import annotations

import json
import lzma
import os
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from suite.record import files
from suite.record.journal import Journal
from suite.record.run import JOURNAL_NAME, RUN_NAME, check_run, fold, measured, read_run, write_run
from suite.record.schema import MAX_BYTES, Kind, RecordError, load, now_utc, parse_utc, schema_version, validate
from suite.record.source import source_state
from suite.record.store import EvidenceStore, evidence_key
from suite.selftest.record_examples import PROBLEM, make_events, make_run

SCHEMAS = sorted((Path(files.__file__).parent / "schemas").glob("*.schema.json"))
MANIFEST = {
    "schema": "kernelgate.manifest/1",
    "family": "mla",
    "domain": {"tasks": ["decode"], "fields": {"num_heads": {"min": 16, "max": 128}, "dtype": ["bfloat16"]}},
    "devices": ["h200"],
    "entry_point": "KERNEL",
    "origin": "generated",
    "generator": {"name": "kernelgate generate", "version": "0.1"},
    "seed": 7,
    "space_sha256": "d" * 64,
    "budget_s": {"wall": 1200.0, "device": 840.5},
    "trials": {"tried": 812, "failed": 9, "failures": {"out_of_memory": 9}},
    "parents": ["mla/triton_split_kv"],
    "compilers": {"triton": "3.9.0"},
    "source_sha256": "e" * 64,
    "license": "Apache-2.0",
    "workspace_bytes": 4096,
    "deterministic": True,
    "measured": True,
    "dispatch": [{"when": {"num_heads": 16}, "use": {"num_splits": 4}}],
}


@pytest.mark.parametrize("path", SCHEMAS, ids=lambda path: path.name)
def test_schemas_are_schemas(path: Path) -> None:
    schema = json.loads(path.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["properties"]["schema"]["const"] == f"kernelgate.{path.name.partition('.')[0]}/1"
    assert schema["additionalProperties"] is False


def test_a_manifest_is_accepted_and_each_field_of_it_needed() -> None:
    validate(MANIFEST, "manifest", "x")
    for name in set(MANIFEST) - {"dispatch"}:
        with pytest.raises(RecordError, match=f"{name}"):
            validate({key: value for key, value in MANIFEST.items() if key != name}, "manifest", "x")


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "ends too early at line 1, column 1"),
        (b'{"schema": "kernelgate.run/1",', "ends too early"),
        (b'{"schema": }', "is not JSON at line 1, column 12"),
        (b'{"a": 1, "a": 2}', "'a' appears twice"),
        (b'{"a": NaN}', "NaN is no JSON number"),
        (b'{"a": -Infinity}', "-Infinity is no JSON number"),
        (b'{"a": 1e999}', "1e999 is not finite"),
        (b'{"a": 36893488147419103232}', "beyond 2"),
        (b'{"a": "\xff"}', "byte 7 is not UTF-8"),
        (b'{"a": "\\ud800"}', "half of a surrogate pair"),
        (b"[" * 10_000, "nested too deeply"),
        (b"[]", "is a JSON object"),
        (b"{}", r"\$.schema is None, a run says 'kernelgate.run/1'"),
        (b'{"schema": "kernelgate.run/2"}', "reads only 'kernelgate.run/1'. Use the version that wrote it"),
        (b'{"schema": "kernelgate.baseline/1"}', "Name a run file"),
        (b'{\n<<<<<<< HEAD\n"a": 1\n', "merge conflict markers"),
    ],
)
def test_bad_json_is_a_sentence_that_names_the_file(tmp_path: Path, data: bytes, sentence: str) -> None:
    path = tmp_path / RUN_NAME
    path.write_bytes(data)
    with pytest.raises(RecordError, match=sentence) as caught:
        load(path, "run")
    assert str(caught.value).startswith(f"{path}: ")


def test_files_that_cannot_be_read_are_sentences(tmp_path: Path) -> None:
    for path, sentence in ((tmp_path / "none", "No such file"), (tmp_path, "not a regular file")):
        with pytest.raises(RecordError, match=sentence):
            load(path, "run")
    (tmp_path / "large").write_bytes(b" " * 11)
    with pytest.raises(RecordError, match="larger than 10 bytes"):
        load(tmp_path / "large", "run", max_bytes=10)


def edited(run: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    *folders, last = path.split("|")
    place: Any = run
    for folder in folders:
        place = place[int(folder) if isinstance(place, list) else folder]
    place[int(last) if isinstance(place, list) else last] = value
    return run


MEASUREMENT = "launches|0|measurements|0"


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        ("tierr", "ci", r"\$: the property 'tierr' is unknown \(rule additionalProperties\); did you mean 'tier'\?"),
        ("source|tree_sha256", "B" * 64, r"\$.source.tree_sha256: 'B+.*breaks rule pattern"),
        ("source|tree_sha256", "b" * 64 + "\n", "breaks rule pattern"),
        ("started_utc", "2026-13-01T00:00:00Z", "breaks rule format 'date-time'"),
        ("device|key", "../../h200", r"\$.device.key: .* breaks rule pattern"),
        ("launches|0|started_utc", "yesterday", r"\$.launches\[0\].started_utc"),
        ("launches|0|index", 5, "its run and index make"),
        ("launches|1|launch", "another/1", "its run and index make"),
        (f"{MEASUREMENT}|times_us|mla/flash_mla|2", -1.0, r"\['mla/flash_mla'\]\[2\]: -1.0 breaks rule exclusiveMin"),
        (f"{MEASUREMENT}|times_us|mla/flash_mla|2", True, r"True breaks rule type 'number'"),
        (f"{MEASUREMENT}|times_us|mla/flash_mla", [1.0], "unequal numbers of blocks"),
        (f"{MEASUREMENT}|times_us|mla/unknown", [1.0] * 5, r"'mla/unknown' is not among \$.kernels"),
        (f"{MEASUREMENT}|problem", "mla/unknown", r"'mla/unknown' is not among \$.problems"),
        ("checks|0|kernel", "mla/unknown", r"\$.checks\[0\].kernel: 'mla/unknown' is not among"),
        ("checks|0|distribution", "x" * 501, r"\$.checks\[0\].distribution"),
    ],
)
def test_what_a_run_must_not_hold(tmp_path: Path, path: str, value: Any, sentence: str) -> None:
    with pytest.raises(RecordError, match=sentence):
        write_run(tmp_path / RUN_NAME, edited(make_run(), path, value))
    assert not list(tmp_path.iterdir())


def test_a_run_is_read_as_it_was_written(tmp_path: Path) -> None:
    run = make_run()
    assert write_run(tmp_path, run) == tmp_path / RUN_NAME
    assert read_run(tmp_path) == read_run(tmp_path / RUN_NAME) == run
    assert [path.name for path in tmp_path.iterdir()] == [RUN_NAME]


def test_a_compressed_run_is_read_as_it_was_written(tmp_path: Path) -> None:
    run = make_run()
    path = write_run(tmp_path / "a.json.xz", run)
    assert read_run(path) == run
    assert path.stat().st_size < len(json.dumps(run)) / 3


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"{}" * 20, "cannot be unpacked"),
        (lzma.compress(b"{}")[:-1], "ends too early, or unpacks to more than"),
        (lzma.compress(b"{}", lzma.FORMAT_ALONE), "cannot be unpacked"),
        (lzma.compress(b" " * (MAX_BYTES + 1), preset=0), "ends too early, or unpacks to more than"),
        (lzma.compress(b"{}"), "Name a run file"),
    ],
    ids=["none", "cut", "another-format", "bomb", "no-run"],
)
def test_a_compressed_run_that_is_none(tmp_path: Path, data: bytes, sentence: str) -> None:
    path = tmp_path / "a.json.xz"
    path.write_bytes(data)
    with pytest.raises(RecordError, match=sentence):
        read_run(path)


def test_an_error_that_is_no_number_is_written_as_null(tmp_path: Path) -> None:
    run = edited(make_run(), "checks|0|errors|out|max_error", float("nan"))
    write_run(tmp_path, edited(run, "checks|0|sentence", "x" * 20_000))
    check = read_run(tmp_path)["checks"][0]
    assert check["errors"]["out"]["max_error"] is None
    assert check["sentence"].endswith("x ... (12000 more characters)")


def test_a_run_that_was_cut_off_is_read_from_its_journal(tmp_path: Path) -> None:
    events = make_events()[:-1]
    with Journal(tmp_path / JOURNAL_NAME) as journal:
        journal.extend(events)
    run = read_run(tmp_path)
    assert run["finished_utc"] is None
    assert measured(run)["mla/flash_mla", PROBLEM] == [launch["launch"] for launch in run["launches"]]


@pytest.mark.parametrize(
    ("events", "sentence"),
    [
        ([], "holds no event"),
        ([{"event": "check"}], r"Event 1 of the journal \('check'\) is malformed.*begins with its start"),
        ([{**make_events()[0], "schema": "kernelgate.run/9"}], "use the version of kernelgate that wrote it"),
        ([make_events()[0], {"event": "invented"}], r"Event 2 of the journal \('invented'\)"),
        ([make_events()[0], {"event": "measurement", "launch": "x/1"}], "launch 'x/1' has not started"),
    ],
)
def test_fold_refuses_events_out_of_place(events: list[dict[str, Any]], sentence: str) -> None:
    with pytest.raises(RecordError, match=sentence):
        fold(events)


def test_a_resumed_run_is_unfinished_again() -> None:
    resumed = fold([*make_events(), {"event": "resume", "started_utc": "2026-11-22T18:01:02Z"}])
    assert resumed["exit_status"] is None
    assert resumed["environment"]["resumed_utc"] == ["2026-11-22T18:01:02Z"]
    check_run(resumed, "resumed")


def test_a_full_disk_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_run(tmp_path, make_run())
    before = path.read_bytes()

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(RecordError, match=r"No space left on device.*untouched"):
        write_run(tmp_path, make_run(day=2))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_times_are_utc() -> None:
    assert parse_utc(now_utc()).utcoffset() == parse_utc("2026-11-22T18:01:02.125+00:00").utcoffset()
    with pytest.raises(ValueError, match="no time zone"):
        parse_utc("2026-11-22T18:01:02")


ROW = {"launch": "r/0", "problem": PROBLEM, "kernel": "mla/a", "rival": "mla/b", "score": 0.25, "utc": now_utc()}


def test_evidence_adds_up_and_counts_a_launch_once(tmp_path: Path) -> None:
    store, key = EvidenceStore(tmp_path), evidence_key("h200", "b" * 64, {"torch": "2.13"})
    assert store.load(key) == []
    store.append(key, [ROW])
    store.append(key, [ROW, {**ROW, "launch": "r/1", "score": 0.26}])
    with (tmp_path / f"{key}.jsonl").open("a") as file:
        file.write('{"launch": "r/2", "pro')
    assert [row["score"] for row in store.load(key)] == [0.25, 0.26]
    store.append(key, [{**ROW, "launch": "r/3"}])
    assert [row["launch"] for row in store.load(key)] == ["r/0", "r/1", "r/3"]
    store.append(key, [{**ROW, "score": 0.9}])
    with pytest.raises(RecordError, match="line 5 gives launch r/0 a second score"):
        store.load(key)


@pytest.mark.parametrize("change", [{"score": "0.2"}, {"score": 1e9}, {"utc": "today"}, {"kernel": ""}, {"more": 1}])
def test_evidence_refuses_rows_that_mean_nothing(tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(RecordError, match="new row 0"):
        EvidenceStore(tmp_path).append("0" * 64, [{**ROW, **change}])
    with pytest.raises(RecordError, match="no evidence key"):
        EvidenceStore(tmp_path).load("../../etc/passwd")


def test_evidence_keys_tell_devices_sources_and_versions_apart() -> None:
    keys = {
        evidence_key(device, tree, {"torch": torch})
        for device in ("h200", "h100")
        for tree in ("a" * 64, "b" * 64)
        for torch in ("2.12", "2.13")
    }
    assert len(keys) == 8
    assert evidence_key("h200", "a", {"x": "1", "y": "2"}) == evidence_key("h200", "a", {"y": "2", "x": "1"})


def git(root: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false"]
    command = ["git", "-C", str(root), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def project(root: Path) -> Path:
    for name in ("kernels/mla/a.py", "suite/b.py"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("x = 1\n")
    return root


def test_source_state_without_git_still_has_a_hash(tmp_path: Path) -> None:
    state = source_state(project(tmp_path))
    assert (state["git_sha"], state["dirty"]) == (None, None)
    (tmp_path / "kernels" / "__pycache__").mkdir()
    (tmp_path / "kernels" / "__pycache__" / "a.pyc").write_text("")
    (tmp_path / "README.md").write_text("not measured")
    assert source_state(tmp_path) == state
    (tmp_path / "suite" / "b.py").rename(tmp_path / "suite" / "c.py")
    assert source_state(tmp_path)["tree_sha256"] != state["tree_sha256"]


def test_source_state_with_git_sees_edits_and_new_files(tmp_path: Path) -> None:
    git(project(tmp_path), "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    clean = source_state(tmp_path)
    assert clean == {"git_sha": git(tmp_path, "rev-parse", "HEAD"), "dirty": False, "tree_sha256": clean["tree_sha256"]}
    (tmp_path / "README.md").write_text("not measured")
    assert source_state(tmp_path) == clean
    (tmp_path / "kernels" / "new.py").write_text("")
    assert source_state(tmp_path)["dirty"] is True


def test_source_state_inside_another_repository_is_not_that_commit(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    (tmp_path / ".gitignore").write_text("inner\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "outer")
    assert source_state(project(tmp_path / "inner"))["git_sha"] is None


@pytest.mark.parametrize("kind", ["run", "baseline", "manifest", "specs"])
def test_versions_are_known(kind: Kind) -> None:
    assert schema_version(kind) == f"kernelgate.{kind}/1"
