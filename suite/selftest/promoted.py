"""Promoting made-up runs, for tests of promotion."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from suite.judge.evidence import interval
from suite.record.baseline import Claim, read_baselines
from suite.record.promote import Summary, promote
from suite.record.run import write_run
from suite.record.schema import Document
from suite.selftest.record_examples import PROBLEM, TIMES_US, make_run

HAND, GENERATED, VENDOR = "mla/triton_split_kv", "mla/generated/inductor", "mla/flash_mla"
CLAIM = f"{HAND} > {VENDOR} @ {PROBLEM}"


def lower_bound(scores: list[float]) -> float:
    """As the command has it."""
    return interval(scores)[0]


def promote_runs(
    root: Path, runs: list[Document], reason: str | None = None, doubt: str | None = None, only: tuple[str, ...] = ()
) -> Summary:
    """Written to a folder each, then promoted."""
    for run in runs:
        (root / "runs" / run["run_id"]).mkdir(parents=True, exist_ok=True)
        write_run(root / "runs" / run["run_id"], run)
    return promote(
        [root / "runs" / run["run_id"] for run in runs], root, "somebody", reason, lower_bound, lambda *_: doubt, only
    )


def actions(summary: Summary) -> dict[str, str]:
    """By claim."""
    return {outcome.claim: outcome.action for outcome in summary.outcomes}


def claims(root: Path) -> dict[str, Claim]:
    """All that is stored, by name."""
    return {claim.id: claim for claim in read_baselines(root, "h200")}


def two_runs(first_day: int = 1, **options: Any) -> list[Document]:
    """Of three launches each, on two days."""
    return [make_run(day=day, **options) for day in (first_day, first_day + 1)]


def slowed(factor: float) -> dict[str, float]:
    """Times of a kernel by hand that takes longer."""
    return {**TIMES_US, HAND: TIMES_US[HAND] * factor}
