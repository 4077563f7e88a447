"""`kernelgate selftest --faults`: plants every fault on a toy project, and shows what the gate makes of each."""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..device.detect import choose, detect
from ..record.only import as_asked, is_selected
from ..record.schema import RecordError
from ..report.tables import Column, plain, table, text

TITLES = ("fault", "planted", "the run said", "others measured", "journal readable", "exit", "right")


@dataclass(frozen=True)
class Row:
    """One fault and what became of it."""

    fault: str
    planted: str
    said: str
    others_measured: bool | None
    """None: nothing can be measured under this fault."""
    journal_readable: bool
    status: int
    right: bool

    @property
    def is_borne(self) -> bool:
        """Whether it cost its own case only and was named rightly."""
        return self.right and self.others_measured is not False and self.journal_readable

    def cells(self) -> list[str]:
        """As text, in the order of TITLES."""
        yes = {True: "yes", False: "NO", None: "none can be"}
        return [self.fault, self.planted, self.said, yes[self.others_measured], yes[self.journal_readable],
                str(self.status), yes[self.right]]  # fmt: skip


def run(out: Path | None = None, only: Sequence[str] = ()) -> int:
    """Plant them all, print the table, write it to `out` as markdown. Returns 1 where one of them was not borne.

    `only` selects faults whose name contains one of its parts. RecordError, with all that was printed, where the toy
    project cannot be measured even without faults, and where `only` selects none.
    """
    try:
        catalogue, scenarios, toy = (
            importlib.import_module(f"suite.selftest.{name}")
            for name in ("fault_catalogue", "fault_scenarios", "toy_project")
        )
    except ImportError:
        typer.echo("--faults needs suite/selftest/, which only a checkout of the sources has: run it there.", err=True)
        return 1
    chosen = choose("auto", detect())
    kind = chosen.device.kind
    faults = {name: fault for name, fault in catalogue.faults_of(kind).items() if is_selected(name, only)}
    machine = {name: plant for name, plant in scenarios.SCENARIOS.items() if is_selected(name, only)}
    if not faults and not machine:
        raise RecordError(f"{as_asked(only)}: no fault on {kind} is called so.")
    with tempfile.TemporaryDirectory(prefix="kernelgate-faults-") as folder:
        typer.echo(f"{chosen.name}: planting faults in kernels of a toy project")
        rows = _kernel_rows(catalogue, faults, toy.ToyProject, Path(folder, "kernels"), kind) if faults else []
        for row in rows:
            typer.echo(f"{'borne' if row.is_borne else 'NOT borne'}: {row.fault}")
        sound = scenarios.make_project(Path(folder, "machine"))
        for name, plant in machine.items():
            typer.echo(f"planting: {name}")
            rows.append(_scenario_row(name, plant, sound))
    _print(rows)
    if out is not None:
        columns = [Column(title) for title in TITLES]
        page = table(columns, ([text(cell) for cell in row.cells()] for row in rows))
        out.write_text(f"# Faults planted on {text(chosen.name)}\n\n{page}\n", encoding="utf-8")
    return 0 if all(row.is_borne for row in rows) else 1


def _kernel_rows(catalogue: Any, faults: Mapping[str, Any], toy_project: Any, root: Path, kind: str) -> list[Row]:
    """All faulty kernels in one run, with sound ones among them."""
    sources = {name: fault.source for name, fault in faults.items()} | catalogue.SOUND_SOURCES
    project = toy_project.make(root, sources, gpu="cpu" if kind == "cpu" else "auto")
    project.add_to_conftest(catalogue.limits(kind))
    outcome = project.pytest("-m", "toy", "--run-dir", "runs/all")
    if not (project.root / "runs/all/run.json").exists():
        raise RecordError(
            f"The toy project was not measured at all; its run ended with {outcome.status}:\n{outcome.text}"
        )
    record, readable = project.run("all"), bool(project.events("all"))
    measured = [set(m["times_us"]) for launch in record["launches"] for m in launch["measurements"]]
    others = bool(measured) and all(set(catalogue.SOUND) <= names for names in measured)
    verdicts = {verdict["kernel"]: verdict for verdict in record["verdicts"]}
    rows = []
    for name, fault in faults.items():
        said = verdicts.get(f"toy/{name}", {"status": "no verdict", "reason": "", "sentence": ""})
        right = (said["status"], said["reason"]) == (fault.status, fault.reason) and fault.words in said["sentence"]
        sentence = f"{said['status']} ({said['reason']}): {said['sentence'].partition(': ')[2]}"
        rows.append(Row(fault.what, "in a kernel", sentence, others, readable, outcome.status, right))
    return rows


def _scenario_row(name: str, plant: Callable[[Any], Any], project: Any) -> Row:
    found = plant(project)
    planted = (plant.__doc__ or "").partition("\n")[0].rstrip(".")
    return Row(name, planted, found.said, found.others_measured, found.journal_readable, found.status, found.right)


def _print(rows: list[Row]) -> None:
    console, shown = Console(), Table()
    for title in TITLES:
        shown.add_column(title, overflow="fold")
    for row in rows:
        style = None if row.is_borne else "bold red"
        shown.add_row(*(Text(plain(cell, 160)) for cell in row.cells()), style=style)
    console.print(shown)
    borne = sum(row.is_borne for row in rows)
    console.print(Text(f"{borne} of {len(rows)} faults cost their own case only and were named rightly."))
