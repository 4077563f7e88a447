"""`kernelgate selftest --aa`: how often the gate errs on this machine, and the smallest slowdown that it catches."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..device.detect import ChosenDevice, choose, detect
from ..judge.error_curve import conditions, curve, judged_by_gate
from ..measure.aa_launches import Samples, measure
from ..measure.crew import RunError
from ..record.error_rates import error_rates_path, read_error_rates, write_error_rates
from ..record.schema import Document, now_utc, schema_version
from ..report.error_rates import (
    caught_words,
    draw_power,
    false_alarm_words,
    gate_rows,
    markdown,
    other_rows,
    promise_words,
)
from ..report.tables import Column, plain

DEFAULT_RUNS = 24
"""Launches: as many as the gate spends on a pair before it gives up."""
MIN_RUNS = 10
"""Fewer launches are measured and shown, but not stored: resampling so few says too little."""


def run(root: Path, gpu: str = "auto", runs: int = DEFAULT_RUNS, out: Path | None = None) -> int:
    """Measure `runs` launches on the device `gpu` (as --gpu names it), print and store what they say.

    With `out`, a folder, also writes aa.md, aa.png and all block times, samples.json. Stores
    baselines/<device>/selftest/error_rates.json below `root` from MIN_RUNS launches on. Returns 1 where nothing could
    be measured, else 0. Raises DeviceError, RecordError.
    """
    detected = detect()
    chosen = choose(gpu, detected)
    typer.echo(f"{chosen.name}: {runs} launches of unchanged and of slowed kernels")
    try:
        samples = measure(chosen, runs, _say())
    except RunError as error:
        typer.echo(f"Nothing was measured. {plain(error, 1000)}", err=True)
        return 1
    for sentence in dict.fromkeys(samples.failures):
        typer.echo(f"Left out of a launch: {plain(sentence, 1000)}", err=True)
    usable = [one for one in samples.classes if len(one.launches) > 1]
    if not usable:
        typer.echo("No problem was measured in two launches, so nothing can be said.", err=True)
        return 1
    typer.echo("resampling the launches")
    classes = [curve(one.problem, one.rival, one.timer, one.launches, chosen.device.kind) for one in usable]
    document = _document(chosen, detected.torch, detected.triton, classes)
    _print(document)
    if out is not None:
        _write(out, document, samples)
    fewest = min(one["launches"] for one in classes)
    if fewest < MIN_RUNS:
        typer.echo(f"Not stored: {fewest} launches are too few to resample; {MIN_RUNS} are the least.", err=True)
        return 0
    typer.echo(f"wrote {write_error_rates(root, document)}")
    return 0


def simulate_again(root: Path, gpu: str) -> int:
    """Judge the launches that are stored for a device, named by its key or as --gpu does, by the rules that are now in
    force; print and store what they say. Nothing is measured. Returns 1 where none are stored, else 0."""
    key = gpu if error_rates_path(root, gpu).exists() else choose(gpu, detect()).key
    document = read_error_rates(root, key)
    if document is None:
        typer.echo(f"No error rates are stored for {key}. Measure them: kernelgate selftest --aa --gpu {key}", err=True)
        return 1
    kind = document["device"]["kind"]
    classes = [judged_by_gate(one, kind) for one in document["classes"]]
    document = {**document, "simulation": conditions(), "classes": classes}
    _print(document)
    typer.echo(f"wrote {write_error_rates(root, document)}")
    return 0


def _say() -> Callable[[str], None]:
    started = time.monotonic()
    return lambda words: typer.echo(f"{time.monotonic() - started:6.0f} s  {words}")


def _document(
    chosen: ChosenDevice, torch_version: str | None, triton_version: str | None, classes: list[dict[str, Any]]
) -> Document:
    record = chosen.record()
    return {
        "schema": schema_version("error_rates"),
        "device": {name: record[name] for name in ("key", "name", "kind", "arch", "num_sms")},
        "measured_utc": now_utc(),
        "environment": {"torch": torch_version, "triton": triton_version, "driver": record.get("driver")},
        "simulation": conditions(),
        "classes": classes,
    }


def _print(document: Document) -> None:
    console = Console(width=None if Console().is_terminal else 160)
    console.print(_table("Caught / ended as holds, by planted slowdown", *gate_rows(document)))
    console.print(_table("Called slower by each tool's rule, on the same samples", *other_rows(document)))
    words = (false_alarm_words, caught_words, promise_words)
    console.print(Text(" ".join(say(document) for say in words)))


def _table(title: str, columns: list[Column], rows: list[list[str]]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for column in columns:
        table.add_column(column.title, justify="right" if column.number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(plain(cell)) for cell in row))
    return table


def _write(out: Path, document: Document, samples: Samples) -> None:
    out.mkdir(parents=True, exist_ok=True)
    draw_power(document, out / "aa.png")
    title = f"# Error rates of the gate on {plain(document['device']['name'])}"
    page = f"{title}\n\n![Power of the gate and of other tools' rules](aa.png)\n\n{markdown(document)}\n"
    (out / "aa.md").write_text(page, encoding="utf-8")
    (out / "aa.json").write_text(json.dumps(document) + "\n", encoding="utf-8")
    raw = {"classes": [vars(one) for one in samples.classes], "failures": samples.failures}
    (out / "samples.json").write_text(json.dumps(raw) + "\n", encoding="utf-8")
    for name in ("aa.md", "aa.png", "aa.json", "samples.json"):
        typer.echo(f"wrote {out / name}")
