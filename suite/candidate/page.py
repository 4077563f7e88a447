"""The verdict on a candidate, for people: a line, and a page in markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from statistics import median
from typing import Any

from ..report.labels import short_labels
from ..report.tables import MISSING, Column, code, count, factor, interval, number, percent, table, text
from .forms import Candidate
from .outcome import Outcome

WORDS = {
    "incorrect": "Refused: incorrect", "failed": "Refused: it fails", "regressed": "Refused",
    "skipped": "Not judged: it cannot run here", "correct": "Correct, not timed", "measured": "Accepted: correct",
}  # fmt: skip


def headline(candidate: Candidate, outcome: Outcome) -> str:
    """One or two sentences."""
    reason = f" ({outcome.reason})" if outcome.reason else ""
    words = f"{candidate.kernel}: {WORDS[outcome.status]}{reason}. {outcome.sentence}".rstrip()
    if outcome.factor is None:
        return words
    faster = sum(_low(v) > 1 for v in outcome.verdicts)
    slower = sum(_high(v) < 1 for v in outcome.verdicts)
    if outcome.fallen:
        names = ", ".join(failure["kernel"] for failure in outcome.fallen)
        words += f" Judged without {names}, which failed beside it."
    return (
        f"{words} {factor(outcome.factor)} the speed of the best rival, geometric mean over "
        f"{count(len(outcome.verdicts), 'problem')}: proven faster on {faster}, proven slower on {slower}."
    )


def complaints(outcome: Outcome, most: int) -> list[str]:
    """A line for each complaint beyond the headline's, as far as `most` go."""
    others = [f"  {c['problem']}: {c['sentence']}" for c in outcome.complaints[1:]]
    return others[:most] + ([f"  and {len(others) - most} more"] if len(others) > most else [])


def page(candidate: Candidate, outcome: Outcome, run: Mapping[str, Any]) -> str:
    """Markdown; everything that the candidate or the run said is escaped."""
    where = f"Judged on {text(run['device']['name'])}, tier {text(run['tier'])}, run {code(run['run_id'])}."
    passed = f"{count(outcome.checks, 'check')} of outputs passed"
    what = (
        f"{passed}; what is listed here did not pass."
        if outcome.complaints
        else f"{passed}: every problem of the tier that it supports, hard cases, random problems with what the maths "
        "guarantees of them, and timed calls drawn at random."
    )
    parts = [
        f"# {code(candidate.kernel)}",
        "",
        f"**{text(headline(candidate, outcome), 1500)}**",
        "",
        f"{where} {what}",
    ]
    for title, why, body in _sections(outcome, run):
        parts += ["", f"## {title}", "", *([why, ""] if why else []), body]
    return "\n".join([*parts, ""])


def _sections(outcome: Outcome, run: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """(title, introduction or nothing, table) of whatever there is to tell."""
    if outcome.complaints:
        rows = [[code(c["problem"]), text(c.get("distribution", MISSING)), text(f"{c['status']} ({c['reason']})"),
                 text(c["sentence"])] for c in outcome.complaints]  # fmt: skip
        columns = [Column("Problem"), Column("Inputs"), Column("What"), Column("What was found")]
        yield "Why it is refused", "", table(columns, rows)
    if outcome.verdicts:
        yield "Speed", "", _speed_table(outcome, run)
    if outcome.fallen:
        rows = [[code(f["kernel"]), code(f["problem"]), text(f["sentence"])] for f in outcome.fallen]
        columns = [Column("Kernel"), Column("Problem"), Column("What was found in a launch")]
        why = "These had passed all checks. Where one would have been its best rival: had the candidate a part in it?"
        yield "What failed beside it", why, table(columns, rows)
    if outcome.skipped:
        rows = [[code(problem), text(why)] for problem, why in outcome.skipped.items()]
        yield "What it cannot run here", "", table([Column("Problem"), Column("Why")], rows)
    if outcome.findings:
        rows = [[text(f["level"]), code(f"{f['file']}:{f['line']}"), text(f["code"]), text(f["sentence"])]
                for f in outcome.findings]  # fmt: skip
        columns = [Column("Level"), Column("Where"), Column("What"), Column("Why it is listed")]
        why = "Places to look at, not verdicts: what it does was judged by running it."
        yield "What reading its source shows", why, table(columns, rows)


def _speed_table(outcome: Outcome, run: Mapping[str, Any]) -> str:
    labels = short_labels(run["problems"])
    columns = [Column("Problem"), Column("µs", number=True), Column("Best rival"), Column("µs", number=True),
               Column("Speedup", number=True), Column("95% interval", number=True), Column("Launches", number=True),
               Column("Share of the roofline", number=True)]  # fmt: skip
    rows = []
    for verdict in outcome.verdicts:
        problem, own, rival = verdict["problem"], verdict["kernel"], verdict["rival"]
        own_us, rival_us = _median_us(run, problem, own), _median_us(run, problem, rival)
        low, high = verdict["interval"] or (None, None)
        light_us = run["problems"][problem]["light_speed_us"]
        share = light_us / own_us if light_us and own_us else None
        rows.append([text(labels[problem]), number(own_us), code(rival), number(rival_us), factor(verdict["factor"]),
                     interval(low, high), str(verdict["launches"]), percent(share)])  # fmt: skip
    return table(columns, rows)


def _median_us(run: Mapping[str, Any], problem: str, kernel: str) -> float | None:
    times = [
        median(m["times_us"][kernel])
        for launch in run["launches"]
        for m in launch["measurements"]
        if m["problem"] == problem and m["times_us"].get(kernel)
    ]
    return median(times) if times else None


def _low(verdict: Mapping[str, Any]) -> float:
    return float((verdict["interval"] or (None, None))[0] or 0.0)


def _high(verdict: Mapping[str, Any]) -> float:
    return float((verdict["interval"] or (None, None))[1] or float("inf"))
