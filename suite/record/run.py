"""A run's record: folding a journal's events into it, checking it, writing and reading run.json, also compressed.

Events, one a journal line (`launch` is a launch's id, "<run_id>/<index>"):

    start          first; every top-level field known by then
    resume         started_utc, command: the run went on after it was cut off
    problem        id, and the problem's entry        kernel     id, and the kernel's entry
    check          one entry of "checks"              ceilings   name -> measured rate
    canary         canary: the latest wins
    launch_start   launch, index, started_utc, environment {before}
    measurement    launch, and one measurement        failure    launch, and one failure
    launch_end     launch, environment {after}, phases_s
    phases         phases_s                           verdicts   verdicts: the last of them wins
    end            finished_utc, exit_status, unfit
"""

from __future__ import annotations

import copy
import json
import lzma
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from .files import write_atomic
from .journal import plain, read_journal
from .schema import MAX_BYTES, WHAT_TO_DO, Document, RecordError, parse, read_bytes, schema_version, validate

RUN_NAME = "run.json"
JOURNAL_NAME = "journal.jsonl"
PACKED = ".xz"
PACKED_MEMORY_BYTES = 1 << 28
"""Most memory that unpacking may take; xz -9 needs 65 MiB."""


def write_run(path: str | Path, run: Document) -> Path:
    """Validate `run` and write it at once or not at all, to `path` or into that folder. Raises RecordError.

    A path that ends in .xz is compressed, to less than a tenth.
    As in the journal, numbers that are not finite become null and overlong strings are cut.
    """
    path = _run_file(Path(path))
    run = check_run(plain(run), str(path))
    text = json.dumps(run, allow_nan=False, ensure_ascii=False, separators=(",", ":")) + "\n"
    write_atomic(path, lzma.compress(text.encode("utf-8")) if path.suffix == PACKED else text)
    return path


def read_run(path: str | Path) -> Document:
    """A run by its file or folder; where the run was cut off, from its journal. Raises RecordError."""
    folder = Path(path)
    file = _run_file(folder)
    journal = folder / JOURNAL_NAME
    if folder.is_dir() and not file.exists() and journal.exists():
        return check_run(fold(read_journal(journal)), str(journal))
    data = read_bytes(file)
    if file.suffix == PACKED:
        data = _unpacked(data, str(file))
    return check_run(parse(data, str(file), WHAT_TO_DO["run"]), str(file))


def check_run(run: object, where: str) -> Document:
    """Validate against the schema, and what it cannot say: names that refer, blocks that pair, ids used once."""
    document = validate(run, "run", where)
    for index, check in enumerate(document["checks"]):
        drawn = {"problem": None} if check["stage"] == "property" else {}  # off the sweep: its id says all
        _check_names(document, check | drawn, f"{where}: $.checks[{index}]")
    for index, launch in enumerate(document["launches"]):
        _check_launch(document, launch, f"{where}: $.launches[{index}]")
    launches = [launch["launch"] for launch in document["launches"]]
    if len(set(launches)) < len(launches):
        raise RecordError(f"{where}: $.launches holds one launch twice (rule: ids are unique). {_REBUILD}")
    return document


def fold(events: Iterable[Mapping[str, Any]]) -> Document:
    """The run that a journal's events tell, whole or cut off after any event. Raises RecordError on a wrong event."""
    run: Document | None = None
    for number, event in enumerate(events, 1):
        try:
            if run is None:
                run = _start(event)
            else:
                _FOLDS[event["event"]](run, {key: value for key, value in event.items() if key != "event"})
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            what = f"Event {number} of the journal ({_name(event)}) is malformed"
            raise RecordError(f"{what}: {repr(error)[:300]}. {_EVENTS}") from None
    if run is None:
        raise RecordError(f"The journal holds no event: the run was cut off before it began. {_EVENTS}")
    return run


def measured(run: Document) -> dict[tuple[str, str], list[str]]:
    """(kernel, problem) -> the launches that measured it."""
    found: dict[tuple[str, str], list[str]] = {}
    for launch in run["launches"]:
        for measurement in launch["measurements"]:
            for kernel in measurement["times_us"]:
                found.setdefault((kernel, measurement["problem"]), []).append(launch["launch"])
    return found


_REBUILD = "Rebuild the file from its journal with --resume, or measure again."
_EVENTS = "Measure again; suite/record/run.py lists the events."


def _run_file(path: Path) -> Path:
    return path / RUN_NAME if path.is_dir() else path


def _unpacked(data: bytes, where: str) -> bytes:
    """What was compressed, as far as a file may be long: a few bytes may unpack to any number."""
    try:
        unpacker = lzma.LZMADecompressor(lzma.FORMAT_XZ, PACKED_MEMORY_BYTES)
        unpacked = unpacker.decompress(data, MAX_BYTES)
    except (lzma.LZMAError, EOFError) as error:
        raise RecordError(f"{where}: cannot be unpacked ({error}). {_REBUILD}") from None
    if not unpacker.eof:
        raise RecordError(f"{where}: ends too early, or unpacks to more than {MAX_BYTES} bytes. {_REBUILD}")
    return unpacked


def _name(event: object) -> str:
    return repr(event.get("event"))[:100] if isinstance(event, Mapping) else type(event).__name__


def _check_names(run: Document, entry: Document, where: str) -> None:
    for kind in ("kernel", "problem"):
        if entry[kind] is not None and entry[kind] not in run[f"{kind}s"]:
            raise RecordError(f"{where}.{kind}: {entry[kind]!r} is not among $.{kind}s. {_REBUILD}")


def _check_launch(run: Document, launch: Document, where: str) -> None:
    expected = f"{run['run_id']}/{launch['index']}"
    if launch["launch"] != expected:
        raise RecordError(f"{where}.launch: is {launch['launch']!r}, its run and index make {expected!r}. {_REBUILD}")
    for index, failure in enumerate(launch["failures"]):
        _check_names(run, failure, f"{where}.failures[{index}]")
    for index, measurement in enumerate(launch["measurements"]):
        place, times_us = f"{where}.measurements[{index}]", measurement["times_us"]
        for kernel in times_us:
            _check_names(run, {"kernel": kernel, "problem": measurement["problem"]}, place)
        if len({len(blocks) for blocks in times_us.values()}) > 1:
            raise RecordError(f"{place}.times_us: kernels have unequal numbers of blocks, so none pair. {_REBUILD}")


# What each event does to the run.


def _start(event: Mapping[str, Any]) -> Document:
    if event["event"] != "start":
        raise ValueError("a journal begins with its start event")
    if event.get("schema") != schema_version("run"):
        raise ValueError(f"schema is not {schema_version('run')!r}; use the version of kernelgate that wrote it")
    run: Document = {
        "finished_utc": None,
        "base": None,
        "environment": {},
        "ceilings": {},
        "problems": {},
        "kernels": {},
        "checks": [],
        "launches": [],
        "verdicts": [],
        "phases_s": {},
        "exit_status": None,
        "unfit": None,
    }
    known = {key: value for key, value in event.items() if key != "event"}
    return {**run, **copy.deepcopy(known)}


def _resume(run: Document, event: Document) -> None:
    # What was decided when the run was cut off is decided anew.
    run.update(finished_utc=None, exit_status=None, unfit=None)
    run["environment"].setdefault("resumed_utc", []).append(event["started_utc"])


def _entry(section: str) -> Callable[[Document, Document], None]:
    def put(run: Document, event: Document) -> None:
        run[section][event.pop("id")] = event

    return put


def _check(run: Document, event: Document) -> None:
    run["checks"].append(event)


def _launch_start(run: Document, event: Document) -> None:
    launch = {"complete": False, "environment": {}, "phases_s": {}, "measurements": [], "failures": []}
    run["launches"].append({**launch, **copy.deepcopy(event)})


def _launch_item(section: str) -> Callable[[Document, Document], None]:
    def put(run: Document, event: Document) -> None:
        _launch(run, event.pop("launch"))[section].append(event)

    return put


def _launch_end(run: Document, event: Document) -> None:
    launch = _launch(run, event.pop("launch"))
    launch["environment"].update(event.pop("environment", {}))
    launch.update(event, complete=True)


def _launch(run: Document, name: str) -> Document:
    for launch in reversed(run["launches"]):
        if launch["launch"] == name:
            found: Document = launch
            return found
    raise ValueError(f"launch {name!r} has not started")


def _merge(section: str) -> Callable[[Document, Document], None]:
    def put(run: Document, event: Document) -> None:
        run[section].update(event.get(section, event))

    return put


def _replace(run: Document, event: Document) -> None:
    run.update(event)


_FOLDS: dict[str, Callable[[Document, Document], None]] = {
    "resume": _resume,
    "problem": _entry("problems"),
    "kernel": _entry("kernels"),
    "check": _check,
    "ceilings": _merge("ceilings"),
    "launch_start": _launch_start,
    "measurement": _launch_item("measurements"),
    "failure": _launch_item("failures"),
    "launch_end": _launch_end,
    "canary": _replace,
    "phases": _merge("phases_s"),
    "verdicts": _replace,
    "end": _replace,
}
