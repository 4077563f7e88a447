"""What reading the kernels' sources showed: one row a finding. A report without findings has no such section."""

from __future__ import annotations

from typing import Any

from .pool import Pool, is_base
from .tables import Column, code, count, details, listing, table, text

_OPEN_ROWS = 15
_EXPLANATION = (
    "Read from the source, without running it. A finding is a place to look at, not a verdict: what a kernel does was "
    "judged by running it, and most of what is listed here has honest uses."
)


def findings_section(pool: Pool) -> str:
    """The explanation and the table, suspicious findings first; empty where no kernel has a finding."""
    rows = _rows(pool)
    if not rows:
        return ""
    suspicious = sum(finding["level"] == "suspicious" for finding in (row[0] for row in rows))
    cut = max(_OPEN_ROWS, suspicious)
    parts = [_EXPLANATION, _table(rows[:cut])]
    if rest := rows[cut:]:
        parts.append(details(count(len(rest), "more note"), _table(rest)))
    return "\n\n".join(parts)


def _rows(pool: Pool) -> list[tuple[dict[str, Any], list[str]]]:
    """Each finding with the kernels that it is in: a helper's is shared."""
    kernels: dict[tuple[Any, ...], tuple[dict[str, Any], list[str]]] = {}
    for kernel, entry in pool.kernels.items():
        for finding in [] if is_base(kernel) else entry.get("findings", []):
            kernels.setdefault(tuple(finding.values()), (finding, []))[1].append(kernel)
    return sorted(kernels.values(), key=lambda row: (row[0]["level"] != "suspicious", row[0]["file"], row[0]["line"]))


def _table(rows: list[tuple[dict[str, Any], list[str]]]) -> str:
    columns = [Column("Level"), Column("Kernels"), Column("Where"), Column("What"), Column("Why it is listed")]
    return table(columns, (_cells(finding, kernels) for finding, kernels in rows))


def _cells(finding: dict[str, Any], kernels: list[str]) -> list[str]:
    return [
        f"**{text(finding['level'])}**" if finding["level"] == "suspicious" else text(finding["level"]),
        listing([code(kernel) for kernel in kernels], 5),
        code(f"{finding['file']}:{finding['line']}"),
        text(str(finding["code"]).replace("_", " ")),
        text(finding["sentence"]),
    ]
