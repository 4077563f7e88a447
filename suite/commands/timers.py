"""`kernelgate selftest --timers`: which of the device's timers can be trusted here."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import typer

from ..device.detect import DeviceError, choose, detect, what_is_here
from ..measure.timer_comparison import as_text, compare_timers


def run(launches: int, out: Path | None) -> int:
    """Measure and print the comparison. Returns 1 where a launch failed, else 0. Raises DeviceError without a GPU."""
    detected = detect()
    chosen = choose("auto", detected)
    if chosen.device.kind == "cpu":
        raise DeviceError(f"--timers compares the timers of a GPU. {what_is_here(detected)} Run it where a GPU is.")
    try:
        result = compare_timers(chosen, launches)
    except (RuntimeError, subprocess.TimeoutExpired) as error:
        typer.echo(f"The timers could not be compared. {error}", err=True)
        return 1
    typer.echo(as_text(result))
    if out is not None:
        out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0
