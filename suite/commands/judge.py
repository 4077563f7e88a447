"""`kernelgate judge`: a candidate of anyone's, judged by the gate in a copy of the project that is then thrown away."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import typer

from kernels.discover import families, load_problems, read_kernel
from kernels.problem import Tier

from ..candidate.forms import Candidate, read_candidate
from ..candidate.manifest import Author, manifest_of, manifest_text
from ..candidate.outcome import outcome_of
from ..candidate.page import complaints, headline, page
from ..record.run import read_run
from ..record.schema import RecordError
from ..record.source import copy_measured
from ..report.tables import plain

GATE_FILES = ("suite/test_correctness.py", "suite/test_properties.py", "suite/test_speedup.py")
PROJECT_FILES = ("conftest.py", "pyproject.toml")
RED, USAGE = 1, 4
OF_THE_GATE = (0, RED)
"""Exit statuses of a run that came to verdicts; others are handed on."""
GATE_LOG, PAGE = "gate.txt", "candidate.md"
"""In the run's folder: what the gate printed, and the verdict."""
MAX_PRINTED_BYTES = 4 << 20
MOST_TOLD = 8
"""Complaints on the terminal; the page has all."""


@dataclass(frozen=True)
class How:
    """What the command line says beyond the file."""

    family: str
    task: str = ""
    gpu: str = "auto"
    tier: str = ""
    form: str = ""
    run_dir: Path | None = None
    out: Path | None = None
    author: Author | None = None
    """Whose name it is filed under; None where it is not to be filed."""


def run(root: Path, path: Path, how: How) -> int:
    """Judge the kernel in the file `path`. Returns 0 where it is right and nothing else is held against it, 1 where it
    is refused, 4 where it could not be tried as it was handed in; where the gate could come to no verdict its own exit
    status (README.md).

    The run is recorded in `run_dir`, and the verdict written there and to `out` as markdown. With an author, what was
    accepted is filed in kernels/<family>/generated/ with its manifest.
    """
    with tempfile.TemporaryDirectory(prefix="kernelgate-judge-") as folder:
        tree = Path(folder) / "tree"
        try:
            candidate = _candidate(root, path, how)
            _make_tree(root, tree, candidate)
        except RecordError as error:
            typer.echo(plain(error, 2000), err=True)
            return USAGE
        recorded = (how.run_dir or root / "runs" / _run_name(candidate)).resolve()
        status = _gate(tree, candidate, how, recorded)
    if status not in OF_THE_GATE:
        typer.echo(f"The gate came to no verdict on {candidate.kernel} (exit status {status}).", err=True)
        return status
    record = read_run(recorded)
    outcome = outcome_of(record, candidate.kernel)
    typer.echo("\n".join(plain(line, 2000) for line in (headline(candidate, outcome), *complaints(outcome, MOST_TOLD))))
    for target in filter(None, (recorded / PAGE, how.out)):
        target.write_text(page(candidate, outcome, record), encoding="utf-8")
        typer.echo(f"page: {plain(target, 2000)}")
    if how.author and outcome.accepted:
        _file(root, candidate, manifest_text(manifest_of(candidate, outcome, record, how.author)))
    elif how.author:
        typer.echo("It is not filed.")
    return 0 if outcome.accepted else RED


def show_example(root: Path, family: str, task: str) -> int:
    """Print what a candidate for a task looks like. Returns 0, or 4 where there is no such task."""
    try:
        (asked,) = _tasks(root, family, task)
    except RecordError as error:
        typer.echo(plain(error, 2000), err=True)
        return USAGE
    command = [sys.executable, "-m", "suite.candidate.example", family, asked]
    return subprocess.run(command, cwd=root, check=False).returncode


def _candidate(root: Path, path: Path, how: How) -> Candidate:
    """The candidate. RecordError where something asked for is not there, or could not be written in the end."""
    if how.tier and how.tier not in [tier.value for tier in Tier]:
        raise RecordError(f"--tier {how.tier}: it is one of {', '.join(tier.value for tier in Tier)}.")
    candidate = read_candidate(path, how.family, _tasks(root, how.family, how.task), how.form)
    _refuse_taken(root, candidate)
    for target in [root / "kernels" / how.family] if how.author else []:
        if not os.access(target, os.W_OK):
            raise RecordError(
                f"--add: {target} cannot be written to. Judge it without --add, or from a checkout of yours."
            )
    if how.out and (how.out.is_dir() or not os.access(how.out.parent, os.W_OK)):
        raise RecordError(f"--out {how.out}: no file can be written there. Name one in a folder that exists.")
    return candidate


def _tasks(root: Path, family: str, task: str) -> tuple[str, ...]:
    """The tasks that a candidate is meant for. RecordError where that is not clear."""
    known = families(root)
    if family not in known:
        raise RecordError(f"--family {family}: there is no such family; there are {', '.join(known)}.")
    tiers, hard_cases = load_problems(family)
    tasks = sorted({p.task for p in (*hard_cases, *(p for tier in tiers.values() for p in tier))})
    if task and task not in tasks:
        raise RecordError(f"--task {task}: {family} has the tasks {', '.join(tasks)}.")
    if not task and len(tasks) > 1:
        raise RecordError(f"{family} has several tasks: say which one the candidate solves with --task, one of "
                          f"{', '.join(tasks)}.")  # fmt: skip
    return (task or tasks[0],)


def _run_name(candidate: Candidate) -> str:
    return f"{datetime.now(timezone.utc):%Y%m%dT%H%M%SZ}-judge-{candidate.name}-{secrets.token_hex(2)}"


def _make_tree(root: Path, tree: Path, candidate: Candidate) -> None:
    """The project with the candidate in it, and without claims: nothing is at stake but the candidate.

    RecordError where the gate would not find it, or not for its task.
    """
    copy_measured(root, tree)
    for name in PROJECT_FILES:
        shutil.copy(root / name, tree)
    for name, text in candidate.files.items():
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    found = read_kernel(candidate.kernel, candidate.family, tree / next(iter(candidate.files)), tree)
    if found.broken:
        wanted = f"KERNEL = Kernel(origin=Origin.GENERATED, tasks={candidate.tasks}, run=run)"
        raise RecordError(f"{found.broken} Write it out, at the top level: {wanted}")
    if not set(candidate.tasks) & set(found.tasks):
        solved, asked = ", ".join(found.tasks) or "nothing", ", ".join(candidate.tasks)
        raise RecordError(
            f"{candidate.kernel} says that it solves {solved}, but it is judged on {asked}. Correct the tasks of its "
            "KERNEL, or --task."
        )


def _gate(tree: Path, candidate: Candidate, how: How, run_dir: Path) -> int:
    """The gate on the candidate alone, as anybody runs it; its exit status. What it prints goes to the run's folder."""
    named = f"{candidate.kernel}- or {candidate.kernel}]"  # and no kernel whose name only begins so
    chosen = ["--gpu", how.gpu, "--run-dir", str(run_dir), "-k", named, *(["--tier", how.tier] if how.tier else [])]
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--benchmark-quiet",
        *chosen,
        *GATE_FILES,
    ]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    with tempfile.TemporaryFile() as printed:
        status = subprocess.run(command, cwd=tree, env=environment, check=False, stdout=printed).returncode
        printed.seek(0)
        said = printed.read(MAX_PRINTED_BYTES).decode(errors="replace")
    if status not in OF_THE_GATE:
        typer.echo(said, err=True)
    if run_dir.is_dir():
        (run_dir / GATE_LOG).write_text(said, encoding="utf-8")
    return status


def _refuse_taken(root: Path, candidate: Candidate) -> None:
    """RecordError where the project has another file at the candidate's place: it would miss that rival."""
    taken = [n for n, t in candidate.files.items() if (root / n).exists() and (root / n).read_text("utf-8") != t]
    if taken:
        raise RecordError(f"{', '.join(taken)}: exists with another content. Rename the candidate's file.")


def _file(root: Path, candidate: Candidate, manifest: str) -> None:
    """Write the candidate's files and its manifest."""
    first, *_ = candidate.files
    files = candidate.files | {str(Path(first).with_suffix(".json")): manifest}
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    typer.echo(f"filed {', '.join(files)}")
