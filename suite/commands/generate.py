"""`kernelgate generate`: search families' spaces for one device and write a kernel for each."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timezone
from pathlib import Path
from types import FrameType

import typer

from kernels.discover import discover, families, load_problems, load_spaces, problem_key
from kernels.problem import Tier
from kernels.space import Space

from ..device.specs import DeviceError, DeviceSpec, spec_by_key
from ..generate.emit import GENERATOR, VERSION, FruitlessError, Subject, compilers, refuse_unwritable, write
from ..generate.place import Place, place
from ..generate.search import INTERRUPTED, Budget, Search
from ..generate.trials import Trials, has_log
from ..record.schema import RecordError

LOG_EVERY_S = 15.0
UNITS_S = {"s": 1, "m": 60, "h": 3600}
TERMINATED = 143


@dataclass(frozen=True)
class How:
    """What the command line says beyond what is searched."""

    gpu: str
    budget: str
    """Over all spaces and sessions."""
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


def run(root: Path, wanted: Sequence[str], how: How) -> int:
    """Search what is `wanted`, families or `family/space`, one space after the other, and write the best of each.

    Workers start once for all. Returns the exit status; RecordError or DeviceError where nothing can be searched.
    """
    spec = spec_by_key(how.gpu)
    if spec.bandwidth_bytes_per_s is None:
        raise DeviceError(f"The data sheet has no bandwidth for {spec.key}: without it nothing can be ranked.")
    seconds_of(how.budget)
    subjects = _subjects(root, wanted, spec, how)
    name = "-".join(dict.fromkeys(subject.family for subject in subjects))
    folder = how.resume or how.run_dir or root / "runs" / f"{_now()}-generate-{name}-{spec.key}"
    if how.resume and not any(has_log(_log_folder(folder, subject)) for subject in subjects):
        raise RecordError(f"{folder}: there is no search of {', '.join(map(_name, subjects))} to resume.")
    with _terminable() as was_terminated:
        try:
            templates = [f"{subject.family}/{subject.space.template}" for subject in subjects]
            with place(how.gpu, how.scheduler, how.jobs, how.seed, how.estimate, templates) as there:
                status = _searched([_measured(subject, there) for subject in subjects], folder, there, how)
        except KeyboardInterrupt:
            typer.echo(
                f"It was interrupted. What was tried and is not written yet, --resume {folder} writes.", err=True
            )
            status = INTERRUPTED
    return TERMINATED if was_terminated and status == INTERRUPTED else status


def _searched(subjects: Sequence[Subject], folder: Path, there: Place, how: How) -> int:
    session = _Session(folder, there, how)
    try:
        return session.search(subjects)
    finally:
        session.close()


def _subjects(root: Path, wanted: Sequence[str], spec: DeviceSpec, how: How) -> list[Subject]:
    """Everything to search, each once. RecordError where a part of it does not exist or cannot be searched."""
    found: dict[tuple[str, str], Subject] = {}
    for one in wanted:
        family, _, named = one.partition("/")
        named = named or how.space
        if family not in families(root):
            raise RecordError(f"{family}: there is no such family; there are {', '.join(families(root))}.")
        every = [space for space in load_spaces(family) if space.arch in ("", spec.device().arch)]
        if not every:
            raise RecordError(f"kernels/{family}/space.py has nothing that could be searched on {spec.key}.")
        spaces = [space for space in every if named in ("", space.what, *space.tasks)]
        if not spaces:
            have = ", ".join(f"{space.what} ({', '.join(space.tasks)})" for space in every)
            raise RecordError(f"{named}: {family} has no such space or task for {spec.key}; it has {have}.")
        subjects = [s for space in spaces if (s := _subject(root, family, space, spec, how)).problems]
        if not subjects:
            raise RecordError(f"{spec.key} can run no problem of {one} in the tier {how.tier}.")
        found |= {(family, subject.space.what): subject for subject in subjects}
    return list(found.values())


def _subject(root: Path, family: str, space: Space, spec: DeviceSpec, how: How) -> Subject:
    """Problems of the tier, of the space's tasks, that the device can hold and run."""
    tiers, hard_cases = load_problems(family)
    everything = {p.id: p for p in (*hard_cases, *(p for tier in tiers.values() for p in tier))}
    able = {key: p for key, p in everything.items() if p.task in space.tasks and not p.unsupported_by(spec.device())}
    try:
        tier = Tier(how.tier)
    except ValueError:
        raise RecordError(f"--tier {how.tier}: there are {', '.join(tier.value for tier in Tier)}.") from None
    problems = [p for p in tiers[tier] if p.id in able]
    return Subject(root, family, space, spec, problems, list(able.values()), how.seed)


def _measured(subject: Subject, there: Place) -> Subject:
    """The subject as it will be searched; RecordError now, rather than when the budget is spent."""
    known = Subject(**{**vars(subject), "measured": there.gpus > 0})
    refuse_unwritable(known)
    return known


@dataclass
class _Session:
    """Searches one after the other: the next one's first choices compile while the kernel of the last is written."""

    folder: Path
    there: Place
    how: How

    def __post_init__(self) -> None:
        self._logs: list[Trials] = []
        self._fruitless: list[str] = []

    def search(self, subjects: Sequence[Subject]) -> int:
        """Returns the exit status."""
        searches = [self._opened(subject) for subject in subjects]
        total_s, spent_s, last = seconds_of(self.how.budget), 0.0, None
        for number, (subject, search) in enumerate(zip(subjects, searches, strict=True)):
            typer.echo(f"{_name(subject)}: {len(subject.problems)} problems for {subject.spec.name}; "
                       f"log in {search.trials.path.parent}")  # fmt: skip
            share_s = (total_s - spent_s) / (len(searches) - number)
            search.begin(self.there.executor, Budget(share_s, self.how.trials))
            if last is not None:
                self._write(*last)
            last = (subject, search, search.run())
            spent_s += search.took_s
            if search.status:
                break
        assert last is not None
        self._write(*last)
        left = [_name(subject) for subject in subjects[number + 1 :]]
        if left:
            typer.echo(f"not searched: {', '.join(left)}; --resume {self.folder} goes on.")
        if self._fruitless:
            typer.echo(" ".join(self._fruitless), err=True)
        return last[1].status or int(bool(self._fruitless))

    def close(self) -> None:
        """Give up the logs."""
        for trials in self._logs:
            trials.close()

    def _opened(self, subject: Subject) -> Search:
        """A search with its log. RecordError where the log is another search's."""
        space, device = subject.space, subject.spec.device()
        template = discover(subject.root)[f"{subject.family}/{space.template}"]
        header = {
            "generator": [GENERATOR, VERSION], "family": subject.family, "template": space.template,
            "template_sha256": template.sha256, "device": subject.spec.key, "seed": subject.seed,
            "space_sha256": space.sha256(device), "fields": [f.name for f in fields(space.choice)],
            "problems": [problem_key(p) for p in subject.problems], "compilers": compilers(),
            "measured": subject.measured,
        }  # fmt: skip
        folder = _log_folder(self.folder, subject)
        trials = Trials(folder, header, self.how.resume is not None and has_log(folder))
        self._logs.append(trials)
        return Search(space, subject.family, subject.spec, subject.problems, subject.seed, trials, progress(),
                      self.there.evaluate, self.there.gpus)  # fmt: skip

    def _write(self, subject: Subject, search: Search, ended: str) -> None:
        """The best of a search, and what it found. A search of which nothing ran is told at the end."""
        trials = search.trials
        rate = 60 * len(trials.results) / max(1e-9, search.took_s)
        busy = f"; GPU busy {search.busy_share():.0%}" if subject.measured else ""
        failed = trials.failures()
        typer.echo(f"\n{_name(subject)}: {ended} {len(trials.results)} trials in {search.took_s:.0f} s ({rate:.0f} a "
                   f"minute{busy}), {sum(failed.values())} of them failed: {failed or 'none'}.")  # fmt: skip
        try:
            path, _ = write(subject, trials)
        except FruitlessError as error:
            self._fruitless.append(str(error))
            return
        for problem in subject.problems:
            typer.echo(_line(subject, trials, problem_key(problem), search.by_hand(problem)))
        told = "ranked by an estimate, nothing was measured"
        if subject.measured:
            told = f"measured for this search alone; judge it: pytest -m {subject.family} -k {path.stem}"
        typer.echo(f"wrote {path.relative_to(subject.root)} and its manifest; {told}.")


def _line(subject: Subject, trials: Trials, problem: str, by_hand: dict[str, object]) -> str:
    best, hand = trials.best(problem), trials.find(problem, by_hand)
    if best is None:
        return f"  {problem}: no choice was ranked"
    best_us = trials.time_us(best)
    than = f", {trials.time_us(hand) / best_us:.2f}x of the choice by hand" if hand and hand.score_us else ""
    changed = ", ".join(f"{n} {v}" for n, v in best.choice.items() if by_hand[n] != v) or "as by hand"
    return f"  {problem}: {'measured' if subject.measured else 'estimated'} {best_us:.1f} us{than} ({changed})"


def _name(subject: Subject) -> str:
    return f"{subject.family}/{subject.space.what}"


def _log_folder(folder: Path, subject: Subject) -> Path:
    return folder / _name(subject).replace("/", "-")


@contextlib.contextmanager
def _terminable() -> Iterator[list[int]]:
    """SIGTERM ends a search as Ctrl-C does. Holds the signal once it came."""
    came: list[int] = []

    def end(number: int, frame: FrameType | None) -> None:
        came.append(number)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield came
    finally:
        signal.signal(signal.SIGTERM, before)


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
    return f"{datetime.now(timezone.utc):%Y%m%dT%H%M%SZ}-{os.getpid()}"
