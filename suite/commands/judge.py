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

from kernels.discover import families, load_problems

from ..candidate.forms import Candidate, read_candidate
from ..candidate.manifest import Author, manifest_of, manifest_text
from ..candidate.outcome import outcome_of
from ..candidate.page import headline, page
from ..record.run import read_run
from ..record.schema import RecordError
from ..record.source import copy_measured
from ..report.tables import plain

GATE_FILES = ("suite/test_correctness.py", "suite/test_properties.py", "suite/test_speedup.py")
PROJECT_FILES = ("conftest.py", "pyproject.toml")
RED = 1
OF_THE_GATE = (0, RED)
"""Exit statuses of a run that came to verdicts; others are handed on."""


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
    """Judge the kernel in the file `path`. Returns 0 where it is right and nothing else is held against it, else 1;
    where the gate could come to no verdict its own exit status (README.md).

    The run is recorded in `run_dir`, and the verdict written there and to `out` as markdown. With an author, what was
    accepted is filed in kernels/<family>/generated/ with its manifest. RecordError where the file cannot be judged.
    """
    candidate = read_candidate(path, how.family, _tasks(root, how.family, how.task), how.form)
    if how.author:
        _refuse_taken(root, candidate)
    recorded = (how.run_dir or root / "runs" / _run_name(candidate)).resolve()
    with tempfile.TemporaryDirectory(prefix="kernelgate-judge-") as folder:
        tree = _tree(root, Path(folder) / "tree", candidate)
        status = _gate(tree, candidate, how, recorded)
    if status not in OF_THE_GATE:
        typer.echo(f"The gate came to no verdict on {candidate.kernel} (exit status {status}).", err=True)
        return status
    record = read_run(recorded)
    outcome = outcome_of(record, candidate.kernel)
    for target in filter(None, (recorded / "candidate.md", how.out)):
        target.write_text(page(candidate, outcome, record), encoding="utf-8")
    typer.echo(plain(headline(candidate, outcome), 2000))
    if how.author and outcome.accepted:
        _file(root, candidate, manifest_text(manifest_of(candidate, outcome, record, how.author)))
    return 0 if outcome.accepted else RED


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


def _tree(root: Path, tree: Path, candidate: Candidate) -> Path:
    """The project with the candidate in it, and without claims: nothing is at stake but the candidate."""
    copy_measured(root, tree)
    for name in PROJECT_FILES:
        shutil.copy(root / name, tree)
    for name, text in candidate.files.items():
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return tree


def _gate(tree: Path, candidate: Candidate, how: How, run_dir: Path) -> int:
    """The gate on the candidate alone, as anybody runs it; its exit status."""
    chosen = ["--gpu", how.gpu, "--run-dir", str(run_dir), "-k", candidate.kernel]
    chosen += ["--tier", how.tier] if how.tier else []
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
    return subprocess.run(command, cwd=tree, env=environment, check=False).returncode


def _refuse_taken(root: Path, candidate: Candidate) -> None:
    """RecordError where the project has another file at the candidate's place."""
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
