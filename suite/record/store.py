"""Evidence that outlives a run: launch scores by commit and device, so that a re-run adds and never re-rolls."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .journal import Journal, read_lines
from .schema import Document, RecordError, parse_utc

ROW_TEXTS = ("launch", "problem", "kernel", "rival", "utc")
_KEY = re.compile(r"[0-9a-f]{64}")


def evidence_key(device_key: str, tree_sha256: str, versions: Mapping[str, str]) -> str:
    """What evidence must share to be added up: device, source, and the versions of torch, triton, driver and rivals."""
    identity = [device_key, tree_sha256, dict(versions)]
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


class EvidenceStore:
    """A folder of one file a key, one row a line: {"launch", "problem", "kernel", "rival", "score", "utc"}.

    `score` is a launch's median over blocks of ln(t_rival / t_kernel).
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def load(self, key: str) -> list[Document]:
        """All rows of a key, in the order they were added; none if there are none. Raises RecordError."""
        path = self._path(key)
        if not path.exists():
            return []
        rows: dict[tuple[str, ...], Document] = {}
        for number, row in enumerate(read_lines(path), 1):
            _check_row(row, f"{path}: line {number}")
            identity = tuple(row[name] for name in ("launch", "problem", "kernel", "rival"))
            # A launch counts once, however often it was added (a resumed run, caches that were merged).
            if rows.setdefault(identity, row)["score"] != row["score"]:
                raise RecordError(f"{path}: line {number} gives launch {row['launch']} a second score. {_REMOVE}")
        return list(rows.values())

    def append(self, key: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add rows and return when they are on disk; waits for another process that is adding. Raises RecordError."""
        path, checked = self._path(key), [dict(row) for row in rows]
        for number, row in enumerate(checked):
            _check_row(row, f"{path}: new row {number}")
        if checked:
            with Journal(path, wait=True) as journal:
                journal.extend(checked)

    def _path(self, key: str) -> Path:
        if not _KEY.fullmatch(key):
            raise RecordError(f"{key[:100]!r} is no evidence key. Make it with evidence_key(...).")
        return self.folder / f"{key}.jsonl"


_REMOVE = "Remove the file to start its evidence anew."


def _check_row(row: Document, where: str) -> None:
    if set(row) != {*ROW_TEXTS, "score"}:
        names = ", ".join(sorted({*ROW_TEXTS, "score"}))
        raise RecordError(f"{where} has the properties {sorted(row)}, a row has {names}. {_REMOVE}"[:1000])
    for name in ROW_TEXTS:
        if not isinstance(row[name], str) or not row[name]:
            raise RecordError(f"{where}: $.{name} is no text. {_REMOVE}")
    score = row["score"]
    if isinstance(score, bool) or not isinstance(score, (int, float)) or not abs(score) < 100:
        raise RecordError(f"{where}: $.score is no logarithm of a ratio of times. {_REMOVE}")
    try:
        parse_utc(row["utc"])
    except ValueError:
        raise RecordError(f"{where}: $.utc is no UTC time like 2026-11-22T18:01:02Z. {_REMOVE}") from None
