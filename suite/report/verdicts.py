"""Verdicts in a reader's order, and what each one says. Shared by the page, the step summary and the terminal."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from .tables import Column, code, factor, interval, table, text

Record = Mapping[str, Any]

STATUSES = ("regressed", "incorrect", "failed", "inconclusive", "holds", "unclaimed", "skipped")
"""Worst first."""
GREEN = ("holds", "unclaimed", "skipped")
SIGNS = {
    "regressed": "❌", "incorrect": "❌", "failed": "❌", "inconclusive": "⚠️",
    "holds": "✅", "unclaimed": "➖", "skipped": "➖",
}  # fmt: skip
"""Told apart by shape, not by colour alone."""


def worst_first(verdicts: Iterable[Record]) -> list[Record]:
    """Regressed first; within a status the largest loss against the claim first, then by name."""

    def key(verdict: Record) -> tuple[Any, ...]:
        loss = gap(verdict)
        return rank(verdict["status"]), math.inf if loss is None else loss, verdict["problem"], verdict["kernel"]

    return sorted(verdicts, key=key)


def listed(verdicts: Iterable[Record], kernels: Mapping[str, Record]) -> list[Record]:
    """Verdicts that a table of verdicts is read for.

    Left out are unclaimed kernels that could not run (they have a section of their own) and unclaimed vendor kernels,
    whose times stand in the speedup tables. `kernels` is the run record's.
    """

    def tells(verdict: Record) -> bool:
        vendor = kernels.get(verdict["kernel"], {}).get("origin") == "vendor"
        return verdict["kind"] != "unclaimed" or (verdict["status"] != "skipped" and not vendor)

    return [verdict for verdict in verdicts if tells(verdict)]


def gap(verdict: Record) -> float | None:
    """Measured factor over claimed factor, less one: -0.03 is 3% short of the claim. None where one is missing."""
    claimed, measured = verdict["factor_claimed"], verdict["factor"]
    return measured / claimed - 1 if claimed and measured else None


def ends(verdict: Record) -> tuple[float | None, float | None]:
    """The interval of the measured factor; an open or missing end is None."""
    low, high = verdict["interval"] or (None, None)
    return low, high


def counts(verdicts: Iterable[Record]) -> dict[str, int]:
    """How many verdicts of each status there are, worst first, without zeros."""
    found = Counter(str(verdict["status"]) for verdict in verdicts)
    return {status: found[status] for status in sorted(found, key=rank)}


def rival_name(verdict: Record) -> str:
    """The rival, or what stands in its place."""
    return str(verdict["rival"] or ("base" if verdict["kind"] == "base" else ""))


def why(verdict: Record) -> str:
    """The verdict's sentence, and how far both kernels moved against their own stored times."""
    moved = verdict["drift"] or {}
    parts = [f"{name} {moved[name]:+.1%}" for name in ("kernel", "rival") if moved.get(name) is not None]
    drift = f" Against stored times: {', '.join(parts)}." if parts else ""
    return f"{verdict['sentence']}{drift}"


def unjudged(claims: Iterable[Any], verdicts: Sequence[Record]) -> list[Any]:
    """Claims on which `verdicts` say nothing. A claim is any object with kernel, rival, problem and factor."""
    judged = {(v["kernel"], v["rival"], v["problem"]) for v in verdicts if v["kind"] == "claim"}
    return [claim for claim in claims if (claim.kernel, claim.rival, claim.problem) not in judged]


def overtaken(verdicts: Iterable[Record], claims: Iterable[Any]) -> list[tuple[Record, Any]]:
    """Verdicts on claims whose factor was changed since, each with the claim that stands now: None if it was deleted.

    Promoting the very runs that refuted a claim lowers it: their page must not stay red for what is claimed no more.
    Where a problem's family has no claims at all, they are not here, which says nothing.
    """
    stored = {(claim.kernel, claim.rival, claim.problem): claim for claim in claims}
    known = {problem.partition("/")[0] for *_, problem in stored}
    asked = [v for v in verdicts if v["kind"] == "claim" and v["problem"].partition("/")[0] in known]
    beside = [(verdict, stored.get((verdict["kernel"], verdict["rival"], verdict["problem"]))) for verdict in asked]
    return [(verdict, claim) for verdict, claim in beside if not claim or claim.factor != verdict["factor_claimed"]]


def markdown_table(shown: Iterable[Record], label: Callable[[str], str]) -> str:
    """`shown`, as given, with problems under the names that `label` gives them."""
    columns = [
        *(Column(title) for title in ("Status", "Kernel", "Against", "Problem")),
        *(Column(title, number=True) for title in ("Claimed", "Measured", "95% interval", "Launches")),
        Column("Why"),
    ]
    return table(columns, (_cells(verdict, label) for verdict in shown))


def overtaken_table(changed: Iterable[tuple[Record, Any]], label: Callable[[str], str]) -> str:
    """What was claimed then and what is claimed now, beside what was measured in between."""
    columns = [
        *(Column(title) for title in ("Kernel", "Against", "Problem", "Status then")),
        *(Column(title, number=True) for title in ("Claimed then", "Measured", "Claimed now")),
        Column("Reason given"),
    ]
    return table(columns, (_overtaken_cells(verdict, claim, label) for verdict, claim in changed))


def _overtaken_cells(verdict: Record, claim: Any, label: Callable[[str], str]) -> list[str]:
    return [
        code(verdict["kernel"]),
        code(verdict["rival"]),
        text(label(verdict["problem"])),
        text(verdict["status"]),
        factor(verdict["factor_claimed"]),
        factor(verdict["factor"]),
        factor(claim.factor if claim else None),
        text((claim.reason or "") if claim else "deleted"),
    ]


def _cells(verdict: Record, label: Callable[[str], str]) -> list[str]:
    status, rival = str(verdict["status"]), rival_name(verdict)
    return [
        f"{SIGNS.get(status, '❌')} {text(status)}",
        code(verdict["kernel"]),
        code(rival) if rival else "",
        text(label(verdict["problem"])),
        factor(verdict["factor_claimed"]),
        factor(verdict["factor"]),
        interval(*ends(verdict)),
        str(verdict["launches"]),
        text(why(verdict)),
    ]


def rank(status: str) -> tuple[int, str]:
    """A status that this version does not know comes first: it must not be overlooked."""
    return (STATUSES.index(status) if status in STATUSES else -1), status
