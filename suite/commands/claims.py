"""`kernelgate claims`: the ledger of every stored claim."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator
from datetime import datetime, timezone
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..judge.drift import stale
from ..judge.evidence import interval
from ..record.baseline import FOLDER, Claim, read_baselines
from ..record.schema import RecordError, parse_utc
from ..report import tables
from ..report.labels import Labels

WIDTH_IN_FILES = 180
"""Columns where the output is no terminal: nothing is folded that a reader could widen."""


def run(root: Path, device: str | None) -> int:
    """Print the ledger of one device or of all. Raises RecordError where a baseline cannot be read."""
    devices = sorted(path.name for path in (root / FOLDER).glob("*") if path.is_dir())
    if device is not None and device not in devices:
        raise RecordError(f"{FOLDER}/ holds no claim on {device!r}, only on: {', '.join(devices) or 'nothing yet'}.")
    claims = [claim for key in ([device] if device else devices) for claim in read_baselines(root, key)]
    console = Console(width=None if sys.stdout.isatty() else WIDTH_IN_FILES)
    if not claims:
        console.print("Nothing is claimed yet: kernelgate promote RUN... turns measured runs into claims.")
        return 0
    labels = {family: Labels(fields) for family, fields in _fields_by_family(claims).items()}
    console.print(_table(claims, labels, datetime.now(timezone.utc)))
    for family, of_family in labels.items():
        if legend := of_family.legend():
            console.print(Text(f"{family}: {legend}", style="dim"))
    return 0


def _fields_by_family(claims: Iterable[Claim]) -> dict[str, dict[str, dict[str, object]]]:
    """Family -> problem id -> the problem's fields."""
    found: dict[str, dict[str, dict[str, object]]] = {}
    for claim in claims:
        found.setdefault(_family(claim), {})[claim.problem] = dict(claim.problem_fields)
    return dict(sorted(found.items()))


def _family(claim: Claim) -> str:
    return claim.problem.partition("/")[0]


def _table(claims: list[Claim], labels: dict[str, Labels], now: datetime) -> Table:
    table = Table(box=box.SIMPLE_HEAD, title=f"{tables.count(len(claims), 'claim')}", title_justify="left")
    for title in ("Device", "Kernel", "Rival", "Problem"):
        table.add_column(title, overflow="fold")
    for title in ("Factor", "95% interval", "Launches"):
        table.add_column(title, justify="right", no_wrap=True)
    for title in ("Proven", "Age", "State"):
        table.add_column(title, no_wrap=True)
    for claim in claims:
        table.add_row(*(Text(tables.plain(cell)) for cell in _cells(claim, labels[_family(claim)], now)))
    return table


def _cells(claim: Claim, labels: Labels, now: datetime) -> Iterator[str]:
    scores = [entry["score"] for entry in claim.evidence["scores"]]
    age_days = (now - parse_utc(claim.proven_utc)).days
    yield from (claim.device, claim.kernel, claim.rival, labels.label(claim.problem))
    yield f"{tables.factor_digits(claim.factor)}x"
    yield _interval(scores)
    yield str(len(scores))
    yield claim.proven_utc[:10]
    yield tables.count(age_days, "day")
    yield "stale" if stale(claim.proven_utc, now) else "current"


def _interval(scores: list[float]) -> str:
    """The factors that stored scores leave possible; they bound nothing where they are too few."""
    low, high = interval(scores) if len(scores) > 1 else (-math.inf, math.inf)
    if not (math.isfinite(low) and math.isfinite(high)):
        return "open"
    return f"{tables.factor_digits(math.exp(low))} to {tables.factor_digits(math.exp(high))}"
