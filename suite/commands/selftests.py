"""The four selftests that are commands, each loaded when it is called."""

from __future__ import annotations

from pathlib import Path


def timers(launches: int, out: Path | None) -> int:
    """`--timers`."""
    from . import timers as command

    return command.run(launches, out)


def faults(out: Path | None) -> int:
    """`--faults`."""
    from . import faults as command

    return command.run(out)


def error_rates(root: Path, gpu: str, runs: int, out: Path | None) -> int:
    """`--aa`."""
    from . import aa as command

    return command.run(root, gpu, runs, out)


def adversaries(out: Path | None, gpu: str, jobs: int | None, only: str) -> int:
    """`--adversaries`."""
    from . import adversaries as command

    return command.run(out, gpu, jobs, only)
