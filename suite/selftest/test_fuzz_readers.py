"""Whatever others hand in, each reader gives a document or one sentence, and takes no more memory than it may."""

from __future__ import annotations

import copy
import functools
import json
import lzma
import random
import tempfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from suite.device import specs
from suite.device.detect import Detected
from suite.measure import replies
from suite.record import schema
from suite.record.baseline import read_baseline
from suite.record.journal import read_journal
from suite.record.run import check_run, fold, read_run
from suite.record.schema import RecordError
from suite.selftest.record_examples import make_events, make_run

pytestmark = pytest.mark.side_by_side

JUNK: list[Any] = [
    None, True, -1, 0, 2**63, 2**70, 1e308, float("nan"), float("inf"), "", "x" * 20_000, "\ud800", "\x00", "\x1b[2J",
    "../../etc/passwd", "<script>", "| a |", "`rm -rf`", [], {}, [[]], {"": {}}, [None] * 100, {"schema": 1},
    json.loads("[" * 80 + "]" * 80), "0001-01-01T00:00:00+23:00",
]  # fmt: skip
SPECS = json.loads(Path(specs.__file__).with_name("specs.json").read_text())


def places(document: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every value within a document."""
    inner = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    return [path, *(place for key, value in inner for place in places(value, (*path, key)))]


def mutated(document: Any, rng: random.Random) -> Any:
    """The document with one to three values replaced, removed, renamed or repeated."""
    document = copy.deepcopy(document)
    for _ in range(rng.randint(1, 3)):
        *way, last = rng.choice([place for place in places(document) if place])
        parent = functools.reduce(lambda value, key: value[key], way, document)
        how = rng.randrange(4)
        if how == 0:
            del parent[last]
        elif how == 1 and isinstance(parent, dict):
            parent[str(last) + rng.choice(["", "_", "\ud800", "x" * 3000, "\x1b[2J"])] = parent.pop(last)
        elif how == 2 and isinstance(parent, list):
            parent.extend(copy.deepcopy(parent[last]) for _ in range(rng.randint(1, 50)))
        else:
            parent[last] = copy.deepcopy(rng.choice(JUNK))
    return document


def refusal(read: Callable[[], object]) -> str | None:
    """What a reader says against what it reads; any exception but RecordError fails the test."""
    try:
        read()
    except RecordError as error:
        return str(error)
    return None


def one_sentence(read: Callable[[], object]) -> None:
    said = refusal(read)
    assert said is None or (said.isprintable() and len(said) < 2000)


def read_all(data: bytes) -> None:
    """Every reader of files, on a file of these bytes."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name, "mla.json")
        path.write_bytes(data)
        Path(name, "journal.jsonl").write_bytes(data)
        packed = Path(name, "run.json.xz")
        packed.write_bytes(lzma.compress(data, preset=0) if len(data) % 2 else data)
        for kind in ("run", "baseline", "manifest", "specs"):
            one_sentence(lambda kind=kind: schema.load(path, kind))  # type: ignore[misc]
        one_sentence(lambda: read_baseline(path))
        one_sentence(lambda: read_run(path))
        one_sentence(lambda: read_run(packed))
        one_sentence(lambda: read_run(name))
        one_sentence(lambda: read_journal(path))


@settings(max_examples=60, deadline=None)
@given(data=st.binary(max_size=200))
@example(data=b"\xff\xfe{\x00")
@example(data=b"\xef\xbb\xbf{}")
@example(data=b"[" * 50_000 + b"]" * 50_000)
@example(data=b'{"a":' * 20_000 + b"1" + b"}" * 20_000)
@example(data=b"9" * 100_000)
@example(data=b"-1e999999999")
@example(data=b'{"schema": NaN}')
@example(data=b'{"a": 1, "a": 2}')
@example(data=b'{"schema": "\\ud800"}')
@example(data=b'{"schema": "kernelgate.run/999999999999999999999999"}')
@example(data=b"\n" * 1000)
def test_any_bytes(data: bytes) -> None:
    read_all(data)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**32), which=st.sampled_from(["run", "specs", "baseline"]))
def test_valid_documents_with_values_replaced(seed: int, which: str) -> None:
    document = {"run": make_run(launches=1), "specs": SPECS, "baseline": _baseline()}[which]
    read_all(json.dumps(mutated(document, random.Random(seed))).encode())


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**32))
def test_valid_journals_with_values_replaced(seed: int) -> None:
    lines = mutated(make_events(launches=1), random.Random(seed))
    data = "".join(json.dumps(line) + "\n" for line in lines).encode()
    with tempfile.TemporaryDirectory() as name:
        Path(name, "journal.jsonl").write_bytes(data)
        one_sentence(lambda: read_run(name))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_events_with_values_replaced_fold_or_say_why(seed: int) -> None:
    one_sentence(lambda: check_run(fold(mutated(make_events(launches=1), random.Random(seed))), "fuzz"))


@pytest.mark.parametrize("size", [1 << 16, 1 << 20])
def test_a_file_that_is_too_large_costs_no_more_than_the_bound(tmp_path: Path, size: int) -> None:
    path = tmp_path / "run.json"
    with path.open("wb") as file:
        file.truncate(1 << 34)  # 16 GiB that take no room on the disk
    tracemalloc.start()
    with pytest.raises(RecordError, match="is larger than"):
        schema.load(path, "run", max_bytes=size)
    assert tracemalloc.get_traced_memory()[1] < 4 * size + (1 << 20)
    tracemalloc.stop()


@pytest.mark.parametrize("special", ["/dev/zero", "/dev/null", "."])
def test_what_is_no_file_is_not_read(special: str) -> None:
    with pytest.raises(RecordError, match="is not a regular file"):
        schema.read_bytes(special)


@pytest.mark.parametrize("utc", ["0001-01-01T00:00:00+23:00", "9999-12-31T23:59:59-23:00", "2026-11-22T18:01:02"])
def test_a_moment_off_the_calendar_is_a_sentence(utc: str) -> None:
    document = _baseline()
    document["claims"][0]["proven_utc"] = utc
    said = refusal(lambda: schema.validate(document, "baseline", "mla.json"))
    assert said is not None
    assert "proven_utc" in said


def test_a_message_of_an_error_is_short_however_long_the_value(tmp_path: Path) -> None:
    run = make_run()
    run["tier"] = "x" * 10**6
    with pytest.raises(RecordError) as caught:
        check_run(run, "r")
    assert len(str(caught.value)) < 2000


DETECTED = {
    "devices": [
        {"key": "h200", "name": "NVIDIA H200", "kind": "cuda", "arch": "sm_90", "num_sms": 132, "warp_size": 32,
         "shared_memory_bytes": 232448, "l2_bytes": 1, "memory_bytes": 1, "uuid": None, "index": 0, "pci_bus_id": None,
         "driver": None, "runtime": None, "partition_mode": None}
    ],
    "cpu": {"key": "cpu-x", "model": "X", "isa": "avx2", "cores": 2, "last_level_cache_bytes": 1, "memory_bytes": 1,
            "arch": "x86_64"},
    "torch": "2", "triton": None, "problems": [],
}  # fmt: skip


@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_what_the_detecting_child_prints_is_checked(seed: int) -> None:
    """`detect` turns these exceptions into a sentence."""
    try:
        found = Detected.from_json(mutated(DETECTED, random.Random(seed)))
    except (KeyError, TypeError, ValueError):
        return
    assert all(isinstance(gpu.num_sms, int) and isinstance(gpu.name, str) for gpu in found.devices)
    assert isinstance(found.cpu.cores, int)
    assert all(isinstance(problem, str) for problem in found.problems)


MESSAGE = {"op": "measure", "kernels": ["toy/a", "toy/b"], "output_dir": "nowhere"}
REPLY = {
    "status": "ran",
    "measurements": [
        {"timer": "perf_counter", "times_us": {"toy/a": [1.0, 2.0], "toy/b": [1.0, 2.0]}, "host_us": {"toy/a": 1.0},
         "plan_us": {}, "graph_safe": {"toy/a": None}, "facts": {}, "notes": ["n"], "sequence": 1}
    ],
    "kept": [], "failures": [{"kernel": "toy/a", "reason": "raised", "sentence": "s"}],
    "cost": {"flops": 1}, "phases_s": {"kernels": 0.1},
}  # fmt: skip


def test_a_sound_reply_is_taken() -> None:
    assert replies.malformed(MESSAGE, copy.deepcopy(REPLY)) is None
    failed = {"status": "failed", "reason": "raised", "sentence": "It raised ValueError: x"}
    assert replies.malformed(MESSAGE, failed) is None


def test_only_a_referee_calls_outputs_correct() -> None:
    said = {"status": "correct", "reason": "correct", "sentence": "", "errors": {}}
    assert replies.malformed({"op": "referee"}, dict(said)) is None
    assert "without a status" in str(replies.malformed({"op": "check", "output_dir": "x"}, dict(said)))


def test_what_a_kernel_says_cannot_move_the_terminal_nor_speak_to_ci() -> None:
    said = {"status": "failed", "reason": "raised", "sentence": "It raised E: \x1b[2J\n::error::x\u202e\x07"}
    assert replies.malformed(MESSAGE, said) is None
    assert said["sentence"] == "It raised E:  [2J ::error::x  "


def test_a_reply_that_is_nested_deeply_is_refused() -> None:
    def nested(levels: int) -> Any:
        innermost: Any = []
        return functools.reduce(lambda inner, _: [inner], range(levels - 1), innermost)

    for levels in (replies.MOST_LEVELS, 900):
        assert "nested too deeply" in str(replies.malformed(MESSAGE, {**REPLY, "more": nested(levels)}))
    assert "nested" not in str(replies.malformed(MESSAGE, {**REPLY, "more": nested(replies.MOST_LEVELS - 1)}))


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_a_reply_with_values_replaced_is_usable_or_refused(seed: int) -> None:
    reply = mutated(REPLY, random.Random(seed))
    sentence = replies.malformed(MESSAGE, reply)
    if sentence is not None:
        assert sentence.isprintable()
        assert len(sentence) < 300
    elif reply["status"] == "ran":
        for measurement in reply["measurements"]:
            assert all(t > 0 for times in measurement["times_us"].values() for t in times)
            assert set(measurement["times_us"]) <= {"toy/a", "toy/b"}
        assert sum(reply["phases_s"].values()) is not None


@pytest.mark.parametrize("file", ["/etc/passwd", "link", "folder", "pipe", "../x.bin", "missing.bin", "\x00"])
def test_outputs_in_other_places_are_refused(tmp_path: Path, file: str) -> None:
    import os

    folder = tmp_path / "out"
    (folder / "folder").mkdir(parents=True)
    (folder / "out.bin").write_bytes(b"x")
    (folder / "link").symlink_to("/etc/passwd")
    (tmp_path / "x.bin").write_bytes(b"x")
    os.mkfifo(folder / "pipe")
    output = {"dtype": "float32", "shape": [1], "dense": True, "file": str(folder / "out.bin"),
              "sha256": "0" * 64}  # fmt: skip
    message = {"op": "check", "kernel": "toy/a", "output_dir": str(folder)}
    assert replies.malformed(message, {"status": "ran", "outputs": {"out": output}}) is None
    elsewhere = output | {"file": file if file.startswith("/") else f"{folder}/{file}"}
    assert "not in its folder" in str(replies.malformed(message, {"status": "ran", "outputs": {"out": elsewhere}}))


def _baseline() -> dict[str, Any]:
    from suite.record.baseline import Baseline, write_baseline
    from suite.selftest.toy_project import _claim

    with tempfile.TemporaryDirectory() as name:
        device = {"key": "h200", "name": "NVIDIA H200", "arch": "sm_90", "num_sms": 132}
        claim = _claim("h200", "mla/triton_split_kv", "mla/flash_mla", "mla/decode-b1", 1.5, "0" * 64)
        path = write_baseline(Path(name), Baseline(device, "mla", (claim,)))
        document: dict[str, Any] = json.loads(path.read_text())
        return document
