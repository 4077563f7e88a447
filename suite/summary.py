"""The end of a run in the terminal: the verdict table, what to repeat, and where record and report lie."""

from __future__ import annotations

import errno
import io
import shlex
import shutil
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from .bench import Bench
from .compile_run import CompileRun
from .record.run import JOURNAL_NAME, RUN_NAME
from .record.schema import RecordError
from .report import write_report
from .report.compile_table import resource_table, resource_text
from .report.tables import plain
from .report.terminal import print_summary
from .report.verdicts import listed
from .selection import Selection

INTERRUPTED = 2
"""pytest's exit status after Ctrl-C."""
OF_LIMITS = (errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM, errno.EFBIG)
"""What the system says where a process takes more than its user may."""
MIN_WIDTH = 100
SENTENCE_CHARS = 1000


def print_run(bench: Bench, selection: Selection, terminal: Any, record_error: str | None) -> None:
    """Write a finished run's summary to pytest's terminal reporter, or why its record could not be written."""
    run = bench.run()
    terminal.section("kernelgate")
    if record_error or run["exit_status"] == INTERRUPTED:
        terminal.write_line(f"{record_error or 'It was interrupted.'} {how_to_go_on(bench)}", red=True)
    if record_error:
        return
    if run["unfit"]:
        terminal.write_line(f"unfit runner: {plain(run['unfit'], SENTENCE_CHARS)}", red=True)
    console = _console(terminal)
    told = listed(run["verdicts"], run["kernels"])
    print_summary(console, told, run["problems"], partial(reproduce_command, bench), run["phases_s"])
    _flush(console, terminal)
    kinds = [v["kind"] for v in run["verdicts"]]
    if kinds and not any(kind in ("claim", "base") for kind in kinds):
        terminal.write_line(
            f"Nothing is claimed for {bench.chosen.key} among what was selected, so nothing could regress. "
            f"Promote two runs or more to claim their speedups: kernelgate promote {_short(bench.options.run_dir)} ..."
        )
    terminal.write_line(f"record: {_short(bench.options.run_dir)}/{RUN_NAME} (journal: {JOURNAL_NAME})")
    if run["launches"]:
        try:
            pages = write_report([run], selection.claims, bench.options.run_dir / "report")
        except (RecordError, OSError, KeyboardInterrupt) as error:  # the verdicts stand without it
            terminal.write_line(f"No report was written. {error or 'It was interrupted.'}", red=True)
        else:
            terminal.write_line(f"report: {_short(pages[0])}")


def speed_test_name(kind: str, kernel: str, rival: str | None, problem: str) -> str:
    """The id that a comparison's test has: `mla/a-over-mla/b-decode-b64-...`."""
    over = {"base": "-over-base", "unclaimed": ""}.get(kind, f"-over-{rival}")
    return f"{kernel}{over}-{problem.partition('/')[2]}"


def reproduce_command(bench: Bench, verdict: dict[str, Any]) -> str:
    """The one command that measures this verdict's pair again."""
    name = speed_test_name(verdict["kind"], verdict["kernel"], verdict["rival"], verdict["problem"])
    base = f" --base {shlex.quote(bench.options.base[0])}" if bench.options.base else ""
    gpu = "cpu" if bench.chosen.device.kind == "cpu" else bench.chosen.key
    test = shlex.quote(f"suite/test_speedup.py::test_speedup[{name}]")
    return f"pytest --gpu {gpu} --tier {bench.options.tier}{base} {test}"


def how_to_go_on(bench: Bench) -> str:
    """What to do about a run that was cut off; nothing where none had begun."""
    if not bench.started:
        return ""
    run_dir = shlex.quote(str(bench.options.run_dir))
    if not (bench.options.run_dir / JOURNAL_NAME).exists():
        return f"Its journal in {run_dir} was removed meanwhile: it cannot be resumed. Measure again with --run-dir."
    return f"Nothing measured is lost: repeat the command with --resume {run_dir} to go on."


def why_it_ended(error: Exception, bench: Bench) -> str:
    """What ended a run before its end, and what to do."""
    told = str(error)
    if isinstance(error, OSError) and error.strerror:
        told = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
        told += ". `ulimit -a` tells what a process may take here" if error.errno in OF_LIMITS else ""
    return f"The run cannot go on. {told.rstrip('.')}. {how_to_go_on(bench)}".rstrip()


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
