"""The `kernelgate` command. What a command does stands in `commands`, loaded when it is called."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from .interrupts import end_in_order

app = typer.Typer(
    help="Is this speedup claim still true? The gate itself runs as `pytest`; see README.md.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
LINE_LIMIT_CHARS = 4000
Runs = Annotated[
    list[Path], typer.Argument(metavar="RUN...", help="Folders of runs, or files: run.json, also compressed.")
]


@app.command()
def doctor() -> None:
    """What is here: device, driver, clocks, versions, which kernels can run and why others cannot."""
    from .commands import doctor as command

    raise typer.Exit(command.run(_root()))


@app.command()
def promote(
    runs: Runs,
    owner: Annotated[
        str | None, typer.Option(help="Who answers for new claims; default: git's user.name.", show_default=False)
    ] = None,
    reason: Annotated[
        str | None, typer.Option(help="Why claims may be lowered; stored with them.", show_default=False)
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(help="Claims whose `kernel > rival @ problem` has this in it.", show_default=False),
    ] = None,
) -> None:
    """Turn measured runs into claims in baselines/: five launches or more in two runs or more of a clean commit."""
    from .commands import promote as command

    raise typer.Exit(command.run(_root(), runs, owner, reason, only or ()))


@app.command()
def report(
    runs: Runs,
    out: Annotated[Path, typer.Option(help="Folder that the pages are written to.")] = Path("reports"),
    summary: Annotated[
        Path | None, typer.Option(help="Also append a short version to this file.", show_default=False)
    ] = None,
) -> None:
    """Write a markdown page with plots for each device, and print its path."""
    from .commands import report as command

    raise typer.Exit(command.run(_root(), runs, out, summary))


@app.command()
def claims(
    device: Annotated[
        str | None, typer.Option(metavar="KEY", help="Only claims on this device.", show_default=False)
    ] = None,
) -> None:
    """List every stored claim: its factor, its evidence, when it was last proven."""
    from .commands import claims as command

    raise typer.Exit(command.run(_root(), device))


@app.command()
def judge(  # noqa: PLR0913, PLR0917 - each argument is an option
    family: Annotated[str, typer.Option(help="Whose problems it solves.")],
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE",
            help="Python with a function run, KernelBench's ModelNew or a KERNEL; or .cpp, .cu, .hip.",
            show_default=False,
        ),
    ] = None,
    example: Annotated[
        bool, typer.Option("--example", help="Print a file to start from: inputs, outputs, what run is given.")
    ] = False,
    task: Annotated[str, typer.Option(help="Which of them, where the family has several tasks.")] = "",
    gpu: Annotated[str, typer.Option(metavar="DEVICE", help="As pytest's --gpu.")] = "auto",
    tier: Annotated[str, typer.Option(help="As pytest's --tier.")] = "",
    form: Annotated[str, typer.Option(help="kernel, function or kernelbench; found out by default.")] = "",
    run_dir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where the run is recorded.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Also write the verdict here.", show_default=False)
    ] = None,
    add: Annotated[
        bool, typer.Option("--add", help="File it in kernels/<family>/generated/ if it is accepted.")
    ] = False,
    generator: Annotated[str, typer.Option(help="Who wrote it, `name` or `name version`, for --add.")] = "unknown",
    spdx: Annotated[str, typer.Option("--license", help="SPDX expression, for --add.")] = "NOASSERTION",
) -> None:
    """Judge one candidate of anyone's: right? a cheat? how fast, against the best rival of each problem?

    kernelgate judge --family mla --task decode --example > mine.py prints a file to start from.

    Exit status: 0 it is right and nothing is held against it; 1 it is refused; 4 it could not be tried as it was handed
    in; 6 the machine is unfit.
    """
    from .candidate.manifest import Author
    from .commands import judge as command

    if example:
        raise typer.Exit(command.show_example(_root(), family, task))
    if file is None:
        _end("kernelgate judge needs a FILE. --example prints one to start from.", 4)
    name, _, version = generator.partition(" ")
    author = Author(name, version or "unknown", spdx) if add else None
    how = command.How(family, task, gpu, tier, form, run_dir, out, author)
    raise typer.Exit(command.run(_root(), file, how))


@app.command()
def generate(  # noqa: PLR0913, PLR0917 - each argument is an option
    wanted: Annotated[
        list[str],
        typer.Argument(
            metavar="FAMILY...", help="Whose spaces are searched; or FAMILY/SPACE, FAMILY/TASK: `moe/router`."
        ),
    ],
    gpu: Annotated[str, typer.Option(metavar="DEVICE", help="For which device; it need not be here.")],
    budget: Annotated[
        str, typer.Option(metavar="TIME", help="90s, 5m, 1h for all spaces; with --resume over all sessions.")
    ] = "20m",
    seed: Annotated[int, typer.Option(min=0, help="The same seed and trial log give the same file.")] = 0,
    trials: Annotated[int | None, typer.Option(min=1, help="Most trials of a space.", show_default=False)] = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Go on with the search in this folder.", show_default=False)
    ] = None,
    run_dir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where the trial log is kept.", show_default=False)
    ] = None,
    scheduler: Annotated[str, typer.Option(metavar="ADDRESS", help="tcp://... of a Dask scheduler.")] = "",
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Processes here; default: one a core.", show_default=False)
    ] = None,
    tier: Annotated[str, typer.Option(help="Problems that it searches for.")] = "ci",
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Rank by machine code alone, though the device is here.")
    ] = False,
    space: Annotated[str, typer.Option(help="Only this space of the family: `decode_split_kv`, say.")] = "",
) -> None:
    """Search for fast kernels of families and write them to kernels/<family>/generated/. No device is needed."""
    from .commands import generate as command

    how = command.How(gpu, budget, seed, trials, resume, run_dir, scheduler, jobs, tier, estimate, space)
    raise typer.Exit(command.run(_root(), wanted, how))


@app.command()
def selftest(  # noqa: PLR0913, PLR0917 - each argument is an option
    timers: Annotated[bool, typer.Option("--timers", help="Compare the device's timers with one another.")] = False,
    faults: Annotated[
        bool, typer.Option("--faults", help="Plant every fault that a kernel or a machine can have; a few minutes.")
    ] = False,
    aa: Annotated[
        bool, typer.Option("--aa", help="How often the gate is wrong on unchanged kernels, and what it catches.")
    ] = False,
    adversaries: Annotated[
        bool, typer.Option("--adversaries", help="Judge kernels that cheat, and honest ones that look odd.")
    ] = False,
    gpu: Annotated[str, typer.Option(metavar="DEVICE", help="As pytest's --gpu, for --aa and --adversaries.")] = "auto",
    runs: Annotated[int, typer.Option(min=2, help="Launches of --aa.")] = 24,
    stored: Annotated[
        bool, typer.Option("--stored", help="--aa of the launches that are stored, by the rules now in force.")
    ] = False,
    only: Annotated[
        list[str] | None,
        typer.Option(
            help="Faults whose name, adversaries whose `cheats/class/name`, `honest/class/name` has this in it.",
            show_default=False,
        ),
    ] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Adversaries at a time.", show_default=False)] = None,
    launches: Annotated[int, typer.Option(min=1, help="Fresh processes that each timer is measured in.")] = 4,
    out: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Also write the result here.", show_default=False)
    ] = None,
) -> None:
    """Measure how well the gate itself measures, on the device that is here."""
    if timers + faults + aa + adversaries != 1:
        typer.echo(
            "kernelgate selftest needs to know what to test, one thing at a time. --timers: compare the device's "
            "timers. --faults: plant faults and see each borne. --aa: the gate's error rates. --adversaries: cheating "
            "kernels, and honest ones that look odd.",
            err=True,
        )
        raise typer.Exit(2)
    if timers:
        from .commands.timers import run as compare_timers

        raise typer.Exit(compare_timers(launches, out))
    if faults:
        from .commands.faults import run as plant_faults

        raise typer.Exit(plant_faults(out, only or ()))
    if aa and stored:
        from .commands.aa import simulate_again

        raise typer.Exit(simulate_again(_root(), gpu))
    if aa:
        from .commands.aa import run as measure_error_rates

        raise typer.Exit(measure_error_rates(_root(), gpu, runs, out))
    from .commands.adversaries import run as judge_adversaries

    raise typer.Exit(judge_adversaries(out, gpu, jobs, only or ()))


def _root() -> Path:
    """The project's root. RuntimeError where `kernels` is another package."""
    from .selection import kernels_root

    return kernels_root()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command. What can be expected to fail ends as a sentence on stderr: status 4 for a device, else 1."""
    _open_streams()
    try:
        from .device.specs import DeviceError
        from .record.schema import RecordError

        _root()
    except ImportError as error:
        if (error.name or "").partition(".")[0] != "kernels":
            raise
        _end(
            f"`import kernels` finds another package of that name, or none ({error}). kernelgate works from its own "
            "checkout: install it with pip install --editable, and uninstall the other package.",
            1,
        )
    except RuntimeError as error:
        _end(str(error), 1)
    end_in_order()
    try:
        app(args=arguments, prog_name="kernelgate")
    except DeviceError as error:
        _end(str(error), 4)
    except RecordError as error:
        _end(_printable(str(error)), 1)
    except OSError as error:
        _end(f"{error.filename or 'A file'}: cannot be read or written ({error.strerror or error}).", 1)


def _open_streams() -> None:
    """Who closed them (`>&-`, a daemon) wants nothing printed, and the exit status still."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - to the process's end


def _end(sentences: str, status: int) -> NoReturn:
    typer.echo(sentences, err=True)
    sys.exit(status)


def _printable(sentences: str) -> str:
    """Without control characters: sentences quote records."""
    from .report.tables import plain

    return "\n".join(plain(line, LINE_LIMIT_CHARS) for line in sentences.splitlines())


if __name__ == "__main__":
    main()
