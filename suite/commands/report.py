"""`kernelgate report`: runs -> markdown pages with plots, one page a device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from ..record.baseline import read_baselines
from ..record.run import read_run
from ..report import summary_markdown, write_report


def run(root: Path, paths: Sequence[Path], out: Path, summary: Path | None) -> int:
    """Write the pages and print their paths; append a short version of each run to `summary`.

    Raises RecordError where a run or baseline cannot be read, OSError where a file cannot be written.
    """
    runs = list({run["run_id"]: run for run in map(read_run, paths)}.values())
    for key, same_device in _by_device(runs).items():
        for path in write_report(same_device, read_baselines(root, key), out):
            typer.echo(path)
    if summary is not None:
        with summary.open("a", encoding="utf-8") as file:
            file.writelines(f"{summary_markdown(run)}\n" for run in runs)
    return 0


def _by_device(runs: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """A page lists the claims of its own device, as far as its runs do not judge them."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for run in runs:
        found.setdefault(run["device"]["key"], []).append(run)
    return found
