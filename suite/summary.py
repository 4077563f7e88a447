"""The end of a run in the terminal: the verdict table, what to repeat, and where record and report lie."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from .bench import Bench
from .compile_run import CompileRun
from .record.run import JOURNAL_NAME, RUN_NAME
from .report import write_report
from .report.compile_table import resource_table, resource_text
from .report.terminal import print_summary
from .report.verdicts import listed
from .selection import Selection

MIN_WIDTH = 100


def print_run(bench: Bench, selection: Selection, terminal: Any, reproduce: Callable[[dict[str, Any]], str]) -> None:
    """Write a finished run's summary to pytest's terminal reporter."""
    run = bench.run()
    terminal.section("kernelgate")
    console = _console(terminal)
    told = listed(run["verdicts"], run["kernels"])
    print_summary(console, told, run["problems"], reproduce, run["phases_s"])
    _flush(console, terminal)
    kinds = [v["kind"] for v in run["verdicts"]]
    if kinds and not any(kind in ("claim", "base") for kind in kinds):
        terminal.write_line(
            f"Nothing is claimed for {bench.chosen.key} among what was selected, so nothing could regress. "
            f"Promote two runs or more to claim their speedups: kernelgate promote {_short(bench.options.run_dir)} ..."
        )
    terminal.write_line(f"record: {_short(bench.options.run_dir)}/{RUN_NAME} (journal: {JOURNAL_NAME})")
    if run["launches"]:
        pages = write_report([run], selection.claims, bench.options.run_dir / "report")
        terminal.write_line(f"report: {_short(pages[0])}")


def print_compiled(compiled: CompileRun, terminal: Any) -> None:
    """Write the resources of everything that was compiled."""
    terminal.section(f"kernelgate: compiled for {compiled.device.arch}")
    terminal.write_line(resource_text(resource_table(result.to_json() for result in compiled.results.values())))


def _console(terminal: Any) -> Console:
    width = max(MIN_WIDTH, shutil.get_terminal_size().columns)
    return Console(file=io.StringIO(), width=width, force_terminal=terminal.hasmarkup, no_color=not terminal.hasmarkup)


def _flush(console: Console, terminal: Any) -> None:
    assert isinstance(console.file, io.StringIO)
    terminal.write(console.file.getvalue())


def _short(path: Path) -> str:
    """Relative to the current folder where it lies below it."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
