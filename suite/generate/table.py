"""From the best choice of every problem: a short table over sizes, the first row that matches counts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any

Facts = Mapping[str, Any]
Row = dict[str, dict[str, Any]]
"""{"when": fact -> value or {min, max}, "use": choice}."""


@dataclass(frozen=True)
class Point:
    """A problem's facts and what is best for it."""

    facts: Facts
    use: Mapping[str, Any]
    weight: float
    """Of several problems with the same facts the heaviest decides: its estimated time."""


def table_of(points: Sequence[Point], otherwise: Mapping[str, Any]) -> list[Row]:
    """Rows that give every point its choice. Between two known sizes the border is their geometric mean.

    `otherwise` is for problems whose bools and strings no point has. ValueError without points.
    """
    if not points:
        raise ValueError("A table needs at least one problem with a choice.")
    rows = _rows(list(points[0].facts), list(points), {})
    uses = {repr(row["use"]) for row in [*rows, {"use": dict(otherwise)}]}
    return [{"when": {}, "use": rows[0]["use"]}] if len(uses) == 1 else [*rows, {"when": {}, "use": dict(otherwise)}]


def in_common(uses: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What is the same in all of them, by name."""
    return {name: value for name, value in uses[0].items() if len({repr(use[name]) for use in uses}) == 1}


def look_up(rows: Sequence[Row], facts: Facts) -> dict[str, Any]:
    """The choice of the first row that matches; every table ends with a row for all else."""
    return next(row["use"] for row in rows if all(_within(facts[name], wanted) for name, wanted in row["when"].items()))


def _within(value: Any, wanted: Any) -> bool:
    if not isinstance(wanted, dict):
        return bool(value == wanted)
    return bool(wanted.get("min", value) <= value <= wanted.get("max", value))


def _rows(names: list[str], points: list[Point], when: dict[str, Any]) -> list[Row]:
    if not names:
        return [{"when": when, "use": dict(max(points, key=lambda point: point.weight).use)}]
    name, *others = names
    ordered = sorted(points, key=lambda point: point.facts[name])
    groups = [(value, list(group)) for value, group in groupby(ordered, key=lambda point: point.facts[name])]
    if isinstance(groups[0][0], (bool, str)):
        return [row for value, group in groups for row in _rows(others, group, {**when, name: value})]
    parts = [_rows(others, group, {}) for _, group in groups]
    borders = [math.isqrt(a * b) for (a, _), (b, _) in pairwise(groups)]
    rows, low = [], None
    for index, part in enumerate(parts):
        high = borders[index] if index < len(borders) else None
        if high is not None and part == parts[index + 1]:
            continue  # one range for both
        limits = {key: limit for key, limit in (("min", low), ("max", high)) if limit is not None}
        rows += [{"when": when | ({name: limits} if limits else {}) | row["when"], "use": row["use"]} for row in part]
        low = high + 1 if high is not None else None
    return rows
