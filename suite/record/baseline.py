"""baselines/<device>/<family>.json: claims, and the evidence that they were made on.

Written so that merges rarely collide and reviewers see what changed: keys sorted, one claim a block, all scores of a
claim on one line, claims in the order of problem, kernel, rival.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from .files import write_atomic
from .schema import WHAT_TO_DO, Document, RecordError, load, parse, schema_version, validate

FOLDER = "baselines"
STATIC_PREFIX = "static-"
"""Files beside the families' that hold compiled resources, not claims."""
DEVICE_FIELDS = ("key", "name", "arch", "num_sms")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*")

Pair = tuple[str, str, str]
"""Problem, kernel, rival: the order of claims in a file."""


def name_of(pair: Pair) -> str:
    """For people."""
    problem, kernel, rival = pair
    return f"{kernel} > {rival} @ {problem}"


@dataclass(frozen=True)
class Claim:
    """On `device`, `kernel` solves `problem` at least `factor` times as fast as `rival`."""

    device: str
    """Device key; the folder in baselines/, not repeated in each claim of a file."""
    kernel: str
    rival: str
    problem: str
    problem_fields: Mapping[str, Any] = field(hash=False)
    factor: float
    """t_rival / t_kernel, a lower confidence bound."""
    owner: str
    made_utc: str
    """When this factor was set."""
    proven_utc: str
    """End of the newest run that proved it."""
    git_sha: str
    kernel_sha256: str
    rival_version: str
    gpu_uuids: tuple[str, ...]
    runs: tuple[str, ...]
    evidence: Mapping[str, Any] = field(hash=False)
    """{"scores": [{"launch", "score"}], "kernel_us", "rival_us", "environment"}"""
    reason: str | None = None
    """Why the factor was lowered."""

    @property
    def id(self) -> str:
        """Unique on its device."""
        return name_of(self.order)

    @property
    def order(self) -> Pair:
        """Where it stands in its file."""
        return self.problem, self.kernel, self.rival

    def to_json(self) -> Document:
        """As it stands in a baseline file."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "device"}
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
        return {name: value for name, value in plain.items() if value is not None}

    @classmethod
    def from_json(cls, device: str, document: Mapping[str, Any]) -> Claim:
        """The claim that a validated block of the baseline of `device` tells."""
        lists = {name: tuple(document[name]) for name in ("gpu_uuids", "runs")}
        return cls(device=device, **{**document, **lists})


@dataclass(frozen=True)
class Baseline:
    """One file."""

    device: Mapping[str, Any]
    """DEVICE_FIELDS of the device that its claims were measured on."""
    family: str
    claims: tuple[Claim, ...]


def read_baselines(root: str | Path, device_key: str) -> list[Claim]:
    """All claims on a device, of all families; none where nothing is claimed. Raises RecordError."""
    folder = Path(root) / FOLDER / _safe(device_key)
    paths = sorted(path for path in folder.glob("*.json") if not path.name.startswith((STATIC_PREFIX, ".")))
    return [claim for path in paths for claim in read_baseline(path).claims]


def read_baseline(path: str | Path) -> Baseline:
    """One file, which must belong where it lies. Raises RecordError."""
    path = Path(path)
    baseline = _from_document(load(path, "baseline"), str(path))
    _check_place(path, "device.key", baseline.device["key"], path.parent.name)
    _check_place(path, "family", baseline.family, path.stem)
    return baseline


def baseline_path(root: str | Path, device_key: str, family: str) -> Path:
    """Where a family's claims on a device lie; `root` is the project's."""
    return Path(root) / FOLDER / _safe(device_key) / f"{_safe(family)}.json"


def kept_run_path(root: str | Path, device_key: str, run_id: str) -> Path:
    """Where the record of a run lies that claims were made from; its schema has checked `run_id`."""
    return Path(root) / FOLDER / _safe(device_key) / "runs" / f"{run_id}.json.xz"


def write_baseline(root: str | Path, baseline: Baseline) -> Path:
    """Validate, write at once or not at all, and read back. Raises RecordError."""
    path = baseline_path(root, baseline.device["key"], baseline.family)
    write_atomic(path, format_baseline(baseline))
    read_baseline(path)
    return path


def format_baseline(baseline: Baseline) -> str:
    """The text of a baseline file; reading it gives `baseline` again, exactly. Raises RecordError."""
    claims = sorted(baseline.claims, key=lambda claim: claim.order)
    blocks = ",\n".join(_block(claim.to_json(), "    ") for claim in claims)
    device = {name: baseline.device[name] for name in DEVICE_FIELDS}
    text = (
        "{\n"
        f'  "claims": [\n{blocks}\n  ],\n'
        f'  "device": {_line(device)},\n'
        f'  "family": {_line(baseline.family)},\n'
        f'  "schema": {_line(schema_version("baseline"))}\n'
        "}\n"
    )
    where = f"The new baseline of {baseline.family}"
    again = _from_document(validate(parse(text.encode(), where), "baseline", where), where)
    if again != Baseline(device, baseline.family, tuple(claims)):
        raise RecordError(f"{where} would not read back as it is. Report this as a bug of kernelgate.")
    return text


def _block(values: Mapping[str, Any], indent: str) -> str:
    """An object with one property a line, and only "evidence" opened further."""
    lines = []
    for name in sorted(values):
        value = _block(values[name], indent + "  ").lstrip() if name == "evidence" else _line(values[name])
        lines.append(f"{indent}  {_line(name)}: {value}")
    return f"{indent}{{\n" + ",\n".join(lines) + f"\n{indent}}}"


def _line(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False)


def _from_document(document: Document, where: str) -> Baseline:
    family, key = document["family"], document["device"]["key"]
    claims = tuple(Claim.from_json(key, claim) for claim in document["claims"])
    seen: dict[str, int] = {}
    for index, claim in enumerate(claims):
        place = f"{where}: $.claims[{index}]"
        if claim.problem.partition("/")[0] != family:
            raise RecordError(f"{place}.problem: {claim.problem!r} is not of family {family!r}. {_WHAT_TO_DO}")
        if seen.setdefault(claim.id, index) != index:
            raise RecordError(
                f"{place}: makes the claim of $.claims[{seen[claim.id]}] again: {claim.id}. {_WHAT_TO_DO}"
            )
        launches = [score["launch"] for score in claim.evidence["scores"]]
        if len(set(launches)) < len(launches):
            raise RecordError(f"{place}.evidence.scores: counts one launch twice. {_WHAT_TO_DO}")
    return Baseline(document["device"], family, claims)


_WHAT_TO_DO = WHAT_TO_DO["baseline"]


def _check_place(path: Path, name: str, found: str, expected: str) -> None:
    if found != expected:
        raise RecordError(f"{path}: $.{name} is {found!r}, but the file lies where {expected!r} belongs. {_WHAT_TO_DO}")


def _safe(name: str) -> str:
    """`name` if it is one path component: keys come from records of others."""
    if not _NAME.fullmatch(name):
        raise RecordError(f"{name[:100]!r} cannot name a device or family: letters, digits, - and _ only.")
    return name
