"""What kernels of a device were meant to reach, beside what they reach: one row a target, missed ones too.

Targets lie in reports/targets/<device>.json, with where they come from; a device without that file has none.
"""

from __future__ import annotations

from pathlib import Path

from ..device.detect import PROJECT_ROOT
from ..record.schema import Document, RecordError, load
from . import file_name
from .pool import OURS, Pool, Row, best_of
from .tables import MISSING, Column, code, factor, number, percent, table, text

FOLDER = Path("reports", "targets")
STAGES = ("moonshot", "at_least")
"""The higher first: what is reached is the first of them that is met."""
MISSED, NOT_MEASURED = "**missed**", "not measured"


def targets_section(pool: Pool, root: Path = PROJECT_ROOT) -> str | None:
    """The table with a sentence of how many were reached; None where the device has no targets."""
    path = root / FOLDER / f"{file_name(pool.device['key'])}.json"
    if not path.is_file():
        return None
    try:
        document = load(path, "targets")
    except RecordError as error:
        return f"The targets cannot be used: {text(error)}"
    rows = [_row(pool, target) for target in document["targets"]]
    measured = [row for row in rows if row[-1] != NOT_MEASURED]
    reached = sum(row[-1] != MISSED for row in measured)
    counted = f"{reached} of {len(measured)} measured targets are reached; not measured: {len(rows) - len(measured)}."
    columns = [Column("Problem"), Column("Best of ours"), Column("µs", True), Column("Roofline", True),
               Column("Best rival"), Column("µs", True), Column("Speedup", True),
               Column("At least", True), Column("Moonshot", True), Column("Reached")]  # fmt: skip
    return f"{counted} {text(document['source'])}\n\n{table(columns, rows)}"


def _row(pool: Pool, target: Document) -> list[str]:
    problem = target["problem"]
    rows = pool.rows_of(problem)
    ours = best_of(rows, OURS)
    rival = next((row for row in rows if row.kernel == pool.rivals[problem]), None) if problem in pool.rivals else None
    speedup = ours.speedup.factor if ours and ours.speedup else None
    label = pool.labels.get(problem, problem.partition("/")[2])
    return [
        text(label),
        code(ours.kernel) if ours else MISSING,
        number(ours.median_us) if ours else MISSING,
        percent(ours.of_measured) if ours else MISSING,
        code(rival.kernel) if rival else MISSING,
        number(rival.median_us) if rival else MISSING,
        factor(speedup) if speedup else MISSING,
        *(_goal(target.get(stage)) for stage in reversed(STAGES)),
        _reached(target, ours, speedup),
    ]


def _goal(goal: Document | None) -> str:
    if goal is None:
        return MISSING
    return f"{number(goal['us'])} µs" if "us" in goal else factor(goal["factor"])


def _reached(target: Document, ours: Row | None, speedup: float | None) -> str:
    """The highest stage that is met; a stage is a time of ours, or a factor over the best rival of the same runs."""
    if ours is None or (speedup is None and any("factor" in target.get(stage, {}) for stage in STAGES)):
        return NOT_MEASURED
    for stage in (s for s in STAGES if s in target):
        goal = target[stage]
        if ours.median_us <= goal["us"] if "us" in goal else (speedup or 0.0) >= goal["factor"]:
            return stage.replace("_", " ")
    return MISSED
