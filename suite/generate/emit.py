"""What a search found, as files: a kernel in kernels/<family>/generated/ and its manifest."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from kernels.discover import problem_key
from kernels.problem import Problem
from kernels.space import Space

from ..device.specs import DeviceSpec
from ..record.files import write_atomic
from ..record.schema import Document, RecordError, load, schema_version, validate
from .specialise import specialised
from .table import Point, Row, table_of
from .trials import Trials

GENERATOR = "kernelgate generate"
VERSION = "2"
LICENSE = "Apache-2.0"


class FruitlessError(RecordError):
    """A search of which nothing can be written."""


@dataclass(frozen=True)
class Subject:
    """What a search is about."""

    root: Path
    family: str
    space: Space
    spec: DeviceSpec
    problems: Sequence[Problem]
    """That it searches for."""
    known: Sequence[Problem]
    """All of the family's that the space's template can solve on the device."""
    seed: int
    measured: bool = False
    """Whether scores are times on the device; estimates otherwise."""

    @property
    def path(self) -> Path:
        """Of the kernel's file."""
        name = f"{self.spec.key.replace('-', '_')}_{self.space.what}.py"
        return self.root / "kernels" / self.family / "generated" / name


def write(subject: Subject, trials: Trials) -> tuple[Path, Document]:
    """Write the best of all trials as a kernel; returns its file and its manifest.

    FruitlessError where no trial ran, RecordError where the file that is there was measured and this one is not.
    """
    rows, path = rows_of(subject, trials), subject.path
    refuse_to_replace_measured(subject)
    manifest_path = path.with_suffix(".json")
    folder = subject.root / "kernels" / subject.family
    text = specialised(folder, subject.space, rows, subject.spec.device(), manifest_path.name)
    document = _manifest(subject, trials, rows, text)
    with _alone(path.parent):
        write_atomic(manifest_path, json.dumps(document, indent=2, ensure_ascii=False) + "\n")
        write_atomic(path, text)
    return path, document


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """While no other search writes there: a kernel and its manifest belong together."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise RecordError(f"{folder}: cannot be written to ({error.strerror or error}).") from error
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def refuse_unwritable(subject: Subject) -> None:
    """RecordError where nothing could be written, or where what is there was measured and what comes will not be."""
    folder = subject.path.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise RecordError(f"{folder}: no kernel can be written there ({error.strerror or error}).") from error
    refuse_to_replace_measured(subject)


def refuse_to_replace_measured(subject: Subject) -> None:
    """RecordError where the file that is there was measured and what will be written is not."""
    manifest_path = subject.path.with_suffix(".json")
    if not subject.measured and manifest_path.exists() and load(manifest_path, "manifest")["measured"]:
        raise RecordError(f"{manifest_path}: what is there was measured; what was only ranked does not replace it.")


def rows_of(subject: Subject, trials: Trials) -> list[Row]:
    """The table: for every problem its best choice. FruitlessError where none ran."""
    points, device = [], subject.spec.device()
    for problem in subject.problems:
        best, by_hand = trials.best(problem_key(problem)), subject.space.by_hand(problem, device)
        if best is not None:
            points.append(Point(subject.space.facts(problem), dict(best.choice), trials.time_us(best)))
        elif trials.find(problem_key(problem), by_hand) is None:  # the search ended before it came to this one
            points.append(Point(subject.space.facts(problem), by_hand, 0.0))
    points += _other_kinds(subject, points)
    if not any(result.score_us for result in trials.results.values()):
        what = f"{subject.family}/{subject.space.template}"
        raise FruitlessError(f"Not one choice of {what} ran: {trials.failures() or 'its time was too short'}.")
    return table_of(points, _otherwise(subject, [point.use for point in points]))


def _other_kinds(subject: Subject, points: Sequence[Point]) -> list[Point]:
    """Problems that a bool or a string parts from all that was searched: they keep the choice by hand."""
    space, device = subject.space, subject.spec.device()

    def kind(facts: Mapping[str, Any]) -> list[Any]:
        return [value for value in facts.values() if isinstance(value, (bool, str))]

    kinds = [kind(point.facts) for point in points]
    others = [p for p in subject.known if points and kind(space.facts(p)) not in kinds]
    return [Point(space.facts(problem), space.by_hand(problem, device), 0.0) for problem in others]


def _otherwise(subject: Subject, uses: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Of the choices found and those by hand the one that suits most problems; the earliest of equals."""
    space, device = subject.space, subject.spec.device()
    by_hand = [space.by_hand(problem, device) for problem in subject.known]

    def unsuited(use: Mapping[str, Any]) -> int:
        return sum(space.why_not(problem, space.made(use), device) is not None for problem in subject.known)

    return min([*uses, *by_hand], key=unsuited)


def _manifest(subject: Subject, trials: Trials, rows: list[Row], text: str) -> Document:
    failures = trials.failures()
    document: Document = {
        "schema": schema_version("manifest"),
        "family": subject.family,
        "domain": {"tasks": list(subject.space.tasks), "fields": {}},
        "devices": [subject.spec.key],
        "entry_point": "KERNEL",
        "origin": "generated",
        "generator": {"name": GENERATOR, "version": VERSION},
        "seed": subject.seed,
        "space_sha256": subject.space.sha256(subject.spec.device()),
        "budget_s": {"wall": trials.seen_s, "device": round(trials.device_s, 1)},
        "trials": {"tried": len(trials.results), "failed": sum(failures.values()), "failures": failures},
        "parents": [f"{subject.family}/{subject.space.template}"],
        "compilers": compilers(),
        "source_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "license": LICENSE,
        "workspace_bytes": None,
        "deterministic": None,
        "measured": subject.measured,
        "dispatch": rows,
    }
    return validate(document, "manifest", f"The manifest of {subject.path.name}")


def compilers() -> dict[str, str]:
    """Versions of what is installed here, without loading it."""
    found = {}
    for name in ("torch", "triton"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
