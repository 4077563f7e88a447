"""Whether this runner can judge at all: asked before any kernel is measured, and looked at again afterwards."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .device.detect import ChosenDevice
from .device.fitness import partition_note, why_unfit_after
from .measure.campaign import Campaign
from .measure.crew import UnfitError
from .run_journal import RunJournal


def ask_canary(campaign: Campaign, journal: RunJournal, chosen: ChosenDevice, say: Callable[[str], None]) -> None:
    """UnfitError, before any kernel is judged, where the machine cannot tell twins from a slowdown."""
    say("asking the canary")
    found = campaign.canary() | {"note": partition_note(chosen)}
    journal.append({"event": "canary", "canary": found})
    if found["unfit"]:
        raise UnfitError(f"{chosen.name} cannot judge. {found['unfit']}")


def found_unfit(run: dict[str, Any]) -> str | None:
    """Why a run's machine was not fit to judge, by its canary and by what befell it in launches; or None."""
    return (run.get("canary") or {}).get("unfit") or why_unfit_after(run)
