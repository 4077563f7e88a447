"""`kernelgate generate`: search a family's spaces for one device and write a kernel for each."""

from __future__ import annotations

import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import typer

from kernels.discover import discover, families, load_problems, load_spaces, problem_key
from kernels.problem import Tier
from kernels.space import Space

from ..device.specs import DeviceError, spec_by_key
from ..generate.cluster import cluster, own_gpus
from ..generate.emit import FruitlessError, Subject, compilers, refuse_to_replace_measured, write
from ..generate.evaluate import Measuring, Reply, Request, evaluate, executor
from ..generate.search import Budget, Search
from ..generate.trials import Trials, has_log
from ..record.schema import RecordError

LOG_EVERY_S = 15.0
UNITS_S = {"s": 1, "m": 60, "h": 3600}


@dataclass(frozen=True)
class How:
    """What the command line says beyond the family."""

    gpu: str
    budget: str
    seed: int = 0
    trials: int | None = None
    """Most trials of a space."""
    resume: Path | None = None
    run_dir: Path | None = None
    scheduler: str = ""
    jobs: int | None = None
    tier: str = "ci"
    estimate: bool = False
    """Rank by machine code alone, though the device is here."""
    space: str = ""
    """Only the space of that name, which is how its file ends: `decode_split_kv`."""


def run(root: Path, family: str, how: How) -> int:
    """Search the spaces of `family`, or the one named, and write the best; returns 0.

    RecordError or DeviceError where it cannot.
    """
    if family not in families(root):
        raise RecordError(f"{family}: there is no such family; there are {', '.join(families(root))}.")
    spec = spec_by_key(how.gpu)
    every = [space for space in load_spaces(family) if space.arch in ("", spec.device().arch)]
    if not every:
        raise RecordError(f"kernels/{family}/space.py has nothing that could be searched on {spec.key}.")
    spaces = [space for space in every if how.space in ("", space.what)]
    if not spaces:
        raise RecordError(f"--space {how.space}: {family} has {', '.join(space.what for space in every)}.")
    if spec.bandwidth_bytes_per_s is None:
        raise DeviceError(f"The data sheet has no bandwidth for {spec.key}: without it nothing can be ranked.")
    folder = how.resume or how.run_dir or root / "runs" / f"{_now()}-generate-{family}-{spec.key}"
    if how.resume and not any(has_log(folder / space.what) for space in spaces):
        raise RecordError(f"{folder}: there is no search of {', '.join(space.what for space in spaces)} to resume.")
    budget = Budget(seconds_of(how.budget) / len(spaces), how.trials)
    fruitless = []
    for number, space in enumerate(spaces, 1):
        try:
            goes_on = _search(root, family, space, folder / space.what, budget, how)
        except FruitlessError as error:  # the others are not to blame
            fruitless.append(str(error))
            continue
        if not goes_on and (left := [other.what for other in spaces[number:]]):
            typer.echo(f"not searched: {', '.join(left)}; --resume {folder} goes on.")
            break
    if fruitless:
        raise RecordError(" ".join(fruitless))
    return 0


def _search(root: Path, family: str, space: Space, folder: Path, budget: Budget, how: How) -> bool:
    """Search one space and write the best; returns whether the next may be searched: not after Ctrl-C."""
    kernel = discover(root)[f"{family}/{space.template}"]
    with _place(how) as (workers, evaluated, measured):
        subject = _subject(root, family, space, how, measured)
        refuse_to_replace_measured(subject)  # now, rather than when the budget is spent
        header = {
            "family": family, "template": space.template, "template_sha256": kernel.sha256, "device": subject.spec.key,
            "seed": how.seed, "space_sha256": space.sha256(subject.spec.device()),
            "problems": [problem_key(p) for p in subject.problems], "compilers": compilers(), "measured": measured,
        }  # fmt: skip
        what = f"{family}/{space.template}: {len(subject.problems)} problems for {subject.spec.name}"
        typer.echo(f"{what}; log in {folder}")
        trials = Trials(folder, header, how.resume is not None and has_log(folder))
        try:
            search = Search(space, family, subject.spec, subject.problems, how.seed, trials, progress(), evaluated,
                            measured)  # fmt: skip
            ended = search.run(workers, budget)
            path, manifest = write(subject, trials)
        except FruitlessError:
            if search.is_interrupted:  # before anything ran
                raise KeyboardInterrupt from None
            raise
        finally:
            trials.close()
    failed = manifest["trials"]["failed"]
    typer.echo(f"\n{ended} {len(trials.results)} trials, {failed} of them failed: {trials.failures() or 'none'}.")
    for problem in subject.problems:
        typer.echo(_line(subject, trials, problem_key(problem), search.by_hand(problem)))
    told = f"measured for this search alone; judge it: pytest -m {family} -k {path.stem}" if measured else (
        "ranked by an estimate, nothing was measured")  # fmt: skip
    typer.echo(f"wrote {path.relative_to(root)} and its manifest; {told}.")
    return not search.is_interrupted


@contextmanager
def _place(how: How) -> Iterator[tuple[Executor, Callable[[Request], Reply], bool]]:
    """Where trials run, what one is (machine code, and where a GPU is had its time on it), and whether it is timed."""
    if how.scheduler:
        with cluster(how.scheduler, how.gpu, how.seed, how.estimate) as there:
            yield there
        return
    chosen = [] if how.estimate else own_gpus(how.gpu)
    with executor(how.jobs or os.cpu_count() or 1) as workers:
        if not chosen:
            yield workers, evaluate, False
            return
        measuring = Measuring(chosen, how.seed)
        try:
            yield workers, measuring, True
        finally:
            measuring.close()


def _subject(root: Path, family: str, space: Space, how: How, measured: bool) -> Subject:
    """Problems of the tier, of the space's tasks, that the device can hold and run."""
    spec = spec_by_key(how.gpu)
    tiers, hard_cases = load_problems(family)
    everything = {p.id: p for p in (*hard_cases, *(p for tier in tiers.values() for p in tier))}
    able = {key: p for key, p in everything.items() if p.task in space.tasks and not p.unsupported_by(spec.device())}
    problems = [p for p in tiers[Tier(how.tier)] if p.id in able]
    if not problems:
        raise RecordError(f"{spec.key} can run no problem of {family}'s tier {how.tier}.")
    return Subject(root, family, space, spec, problems, list(able.values()), how.seed, measured)


def _line(subject: Subject, trials: Trials, problem: str, by_hand: dict[str, object]) -> str:
    best, hand = trials.best(problem), trials.find(problem, by_hand)
    if best is None or not best.score_us:
        return f"  {problem}: no choice was ranked"
    than = f", {hand.score_us / best.score_us:.2f}x of the choice by hand" if hand and hand.score_us else ""
    changed = ", ".join(f"{n} {v}" for n, v in best.choice.items() if by_hand[n] != v) or "as by hand"
    return f"  {problem}: {'measured' if subject.measured else 'estimated'} {best.score_us:.1f} us{than} ({changed})"


def seconds_of(budget: str) -> float:
    """`90s`, `5m`, `1.5h` in seconds. RecordError where it is none of these."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", budget.strip())
    if not found:
        raise RecordError(f"--budget {budget}: must be a time such as 90s, 5m or 1h.")
    return float(found[1]) * UNITS_S[found[2]]


def progress() -> Callable[[str], None]:
    """One line, rewritten on a terminal; in a log now and then."""
    begun = last = time.monotonic()

    def say(text: str) -> None:
        nonlocal last
        now = time.monotonic()
        line = f"[{now - begun:4.0f} s] {text}"
        if sys.stderr.isatty():
            typer.echo(f"\r\x1b[K{line[: shutil.get_terminal_size().columns - 1]}", nl=False, err=True)
        elif now - last >= LOG_EVERY_S:
            last = now
            typer.echo(line, err=True)

    return say


def _now() -> str:
    return f"{datetime.now(timezone.utc):%Y%m%dT%H%M%SZ}"
