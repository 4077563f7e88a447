"""`kernelgate promote`: measured runs -> claims in baselines/."""

from __future__ import annotations

import math
import statistics
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import typer

from ..judge.bands import bands_for
from ..judge.evidence import interval, two_modes
from ..record.promote import Action, Outcome, Summary, promote
from ..report.tables import plain

ACTIONS: tuple[Action, ...] = get_args(Action)
"""In the order in which outcomes are printed."""
LINE_LIMIT_CHARS = 2000
GIT_TIMEOUT_S = 60


def run(root: Path, runs: Sequence[Path], owner: str | None, reason: str | None, only: Sequence[str] = ()) -> int:
    """Print what became of each claim. Returns 1 where these runs spoke for none, else 0. Raises PromoteError."""
    owner = owner if owner is not None else git_user(root)
    summary = promote(runs, root, owner, reason, lower_bound, doubt, only)
    for outcome in sorted(summary.outcomes, key=_order):
        typer.echo(f"{outcome.action:8} {plain(outcome.claim, 500)}: {plain(outcome.sentence, LINE_LIMIT_CHARS)}")
    for path in summary.written:
        typer.echo(f"wrote    {path.relative_to(root)}")
    return _status(summary)


def _status(summary: Summary) -> int:
    if summary.written:
        return 0
    typer.echo("Nothing was written: no claim is new, and none changed.", err=True)
    refused = [outcome for outcome in summary.outcomes if outcome.action == "refused"]
    return 1 if refused or not summary.outcomes else 0


def _order(outcome: Outcome) -> tuple[int, str]:
    return ACTIONS.index(outcome.action), outcome.claim


def lower_bound(scores: list[float]) -> float:
    """ln of the factor that these launch scores make certain."""
    return interval(scores)[0]


def doubt(scores: list[float], device_kind: str, shorter_us: float) -> str | None:
    """Why a claim on these scores would let a loss pass that the gate promises to catch, or None.

    A loss shows when it exceeds how far the claim lies below the kernel, and d0 on top.
    """
    bands = bands_for(device_kind, shorter_us)
    modes = two_modes(scores, bands.sd_floor)
    if modes and modes[1] - modes[0] > bands.d0:
        return (
            f"Its launches have two modes, {math.exp(modes[0]):.4g}x and {math.exp(modes[1]):.4g}x. Find out what "
            "makes them (memory placement, a choice at compile time) before anything is claimed."
        )
    gap = statistics.fmean(scores) - lower_bound(scores)
    if gap <= bands.d0:
        return None
    more = math.ceil(len(scores) * ((gap / bands.d0) ** 2 - 1))
    return (
        f"The factor is certain to {gap:.2%} only, and must be to {bands.d0:.2%}, or a real loss would pass. Measure "
        f"about {more} more launches and promote all runs together."
    )


def git_user(root: Path) -> str:
    """git's user.name as it applies at `root`; empty where there is none."""
    command = ["git", "-C", str(root), "config", "user.name"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=GIT_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()
