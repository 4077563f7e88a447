"""What could not run, was skipped or was wrong: one row a reason, however many kernels and problems share it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from . import verdicts as judged
from .pool import Pool
from .tables import Column, code, count, details, listing, table, text

_OPEN_ROWS = 15

Reason = tuple[str, str, str]
"""Status, reason code, sentence."""
Case = tuple[str | None, str | None]
"""Kernel and problem."""


def troubles(pool: Pool) -> str:
    """A table of reasons, worst status first; skips beyond the first few rows are collapsed."""
    groups = grouped(pool)
    if not groups:
        return "Every kernel ran on every problem, and every checked output was right."
    ordered = sorted(groups, key=lambda reason: (judged.rank(reason[0]), -len(groups[reason]), reason))
    urgent = sum(reason[0] != "skipped" for reason in ordered)
    cut = max(_OPEN_ROWS, urgent)
    parts = [_table(pool, {reason: groups[reason] for reason in ordered[:cut]})]
    if rest := ordered[cut:]:
        parts.append(details(f"{count(len(rest), 'more reason')}", _table(pool, {r: groups[r] for r in rest})))
    return "\n\n".join(parts)


def grouped(pool: Pool) -> dict[Reason, dict[Case, None]]:
    """(kernel, problem) pairs by reason, each pair once. A launch that failed as a whole has neither."""
    groups: dict[Reason, dict[Case, None]] = {}
    for run in pool.runs:
        for record in _records(run):
            reason = (record.get("status", "failed"), record["reason"] or "", record["sentence"] or "")
            groups.setdefault(reason, {})[record["kernel"], record["problem"]] = None
    return groups


def _records(run: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield from (check for check in run["checks"] if check["status"] != "correct")
    for launch in run["launches"]:
        yield from launch["failures"]


def _table(pool: Pool, groups: Mapping[Reason, Mapping[Case, None]]) -> str:
    columns = [Column("Status"), Column("Kernels"), Column("Problems"), Column("Cases", number=True), Column("Why")]
    return table(columns, (_cells(pool, reason, list(pairs)) for reason, pairs in groups.items()))


def _cells(pool: Pool, reason: Reason, pairs: list[Case]) -> list[str]:
    status, reason_code, sentence = reason
    kernels = dict.fromkeys(kernel for kernel, _ in pairs if kernel is not None)
    problems = dict.fromkeys(problem for _, problem in pairs if problem is not None)
    return [
        f"{judged.SIGNS.get(status, '❌')} {text(status)}",
        listing([code(kernel) for kernel in kernels]) or "the whole launch",
        listing([text(pool.label(problem)) for problem in problems]),
        str(len(pairs)),
        text(sentence or reason_code),
    ]
