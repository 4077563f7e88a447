"""What a search has tried: the trial log, an append-only file that survives SIGKILL and that --resume reads."""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from ..record.journal import Journal, read_journal
from ..record.schema import RecordError

LOG_NAME = "trials.jsonl"
Choice = Mapping[str, Any]
STATUSES = ("ranked", "measured", "failed")


@dataclass(frozen=True)
class Result:
    """What became of one choice for one problem."""

    problem: str
    choice: Choice
    status: str
    """`ranked` (estimated from its machine code), `measured` or `failed`."""
    score_us: float | None
    """Measured time, or estimated; None where it failed."""
    reason: str = ""
    """Reason code of a failure."""
    sentence: str = ""
    figures: Mapping[str, Any] = field(default_factory=dict)
    """Of its machine code, by launch."""
    elapsed_s: float = 0.0
    """Search time up to its end, over all sessions."""
    number: int = 0
    """How many of its problem were asked for before it."""

    @property
    def device_s(self) -> float:
        """Time that it took of a GPU."""
        return float(self.figures.get("device_s", 0.0))


@dataclass(frozen=True)
class Again:
    """A choice that was timed once more, while a GPU had nothing else to do."""

    problem: str
    choice: Choice
    time_us: float
    device_s: float
    elapsed_s: float


def has_log(folder: Path) -> bool:
    """Whether a search was begun there."""
    return (folder / LOG_NAME).exists()


class Trials:
    """All results of a search, in memory and on disk."""

    def __init__(self, folder: Path, header: Mapping[str, Any], resume: bool) -> None:
        """Begin a log in `folder`, or go on with the one there. RecordError where it is damaged or another search's."""
        self.path = path = folder / LOG_NAME
        if path.exists() != resume:
            raise RecordError(f"{path}: {'there is no search to resume' if resume else 'exists: --resume goes on'}.")
        self.results: dict[tuple[str, str], Result] = {}
        self.seen_s = 0.0
        """Search time of the sessions before this one."""
        self.device_s = 0.0
        """Time that GPUs were at work for it, over all sessions."""
        self._of: defaultdict[str, list[Result]] = defaultdict(list)
        self._again: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
        self._journal = Journal(path)
        try:
            events = read_journal(path) if resume else []
            self._begin(header, events)
        except RecordError:
            self.close()
            raise

    def _begin(self, header: Mapping[str, Any], events: Sequence[Mapping[str, Any]]) -> None:
        if not events:
            self._journal.append({"event": "search", **header})
            return
        first, wanted = events[0], json.loads(json.dumps({"event": "search", **header}))
        other = [name for name, value in wanted.items() if first.get(name) != value]
        if other or first.keys() - wanted.keys():
            raise RecordError(f"{self.path}: is the log of another search; it differs in {_differing(first, wanted)}.")
        for number, event in enumerate(events[1:], 2):
            where = f"{self.path}: line {number}"
            trial = _read(event, where)
            if trial.problem not in wanted.get("problems", [trial.problem]):
                raise _damage(where, f"is of the problem {trial.problem}, which is not searched for")
            if set(trial.choice) != set(wanted.get("fields", trial.choice)):
                raise _damage(where, "has a choice that the space does not know")
            self._keep(trial)

    def add(self, events: Iterable[Result | Again]) -> None:
        """Remember what came in; returns when it is on disk."""
        new = list(events)
        self._journal.extend({"event": "again" if isinstance(e, Again) else "trial", **vars(e)} for e in new)
        for event in new:
            self._keep(event)

    def find(self, problem: str, choice: Choice) -> Result | None:
        """What became of it, if it was tried."""
        return self.results.get((problem, _key(choice)))

    def of(self, problem: str) -> Sequence[Result]:
        """Results for a problem, as they came in."""
        return self._of[problem]

    def best(self, problem: str) -> Result | None:
        """The fastest for a problem; of equals the first that was asked for."""
        return next(iter(self.ranking(problem)), None)

    def ranking(self, problem: str) -> list[Result]:
        """All that ran, the fastest first."""
        ran = [result for result in self._of[problem] if result.score_us is not None]
        return sorted(ran, key=lambda result: (self.time_us(result), result.number))

    def time_us(self, result: Result) -> float:
        """The median of all its times."""
        assert result.score_us is not None
        return statistics.median([result.score_us, *self._again[result.problem, _key(result.choice)]])

    def times(self, result: Result) -> int:
        """How often it was timed."""
        return 1 + len(self._again[result.problem, _key(result.choice)])

    def failures(self) -> dict[str, int]:
        """Reason code -> how many."""
        return dict(sorted(Counter(r.reason for r in self.results.values() if r.status == "failed").items()))

    def close(self) -> None:
        """Give up the file."""
        self._journal.close()

    def _keep(self, event: Result | Again) -> None:
        self.seen_s = max(self.seen_s, event.elapsed_s)
        self.device_s += event.device_s
        key = (event.problem, _key(event.choice))
        if isinstance(event, Again):
            self._again[key].append(event.time_us)
        elif key not in self.results:
            self.results[key] = event
            self._of[event.problem].append(event)


def _differing(first: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    names = [name for name in {**wanted, **first} if first.get(name) != wanted.get(name)]
    said = [n if isinstance(wanted.get(n), (list, dict)) else f"{n} ({first.get(n)!r} there, {wanted.get(n)!r} here)"
            for n in names]  # fmt: skip
    return ", ".join(said)


def _read(event: Mapping[str, Any], where: str) -> Result | Again:
    """One line of the log. RecordError where it is none that a search writes."""
    kind = {"trial": Result, "again": Again}.get(event["event"])
    values = {name: value for name, value in event.items() if name != "event"}
    if kind is None or values.keys() != {f.name for f in fields(kind)}:
        raise _damage(where, "has not the fields of a trial")
    numbers = [
        values[n] for n in ("score_us", "time_us", "device_s", "elapsed_s", "number") if values.get(n) is not None
    ]
    if not all(isinstance(n, (int, float)) and math.isfinite(n) and n >= 0 for n in numbers):
        raise _damage(where, "has a number that no search writes")
    if not isinstance(values["choice"], dict) or not isinstance(values["problem"], str):
        raise _damage(where, "has no choice or no problem")
    if kind is Again:
        return Again(**values)
    result = Result(**values)
    if result.status not in STATUSES or (result.score_us is None) != (result.status == "failed"):
        raise _damage(where, f"is {result.status!r} with a score of {result.score_us}")
    return result


def _damage(where: str, what: str) -> RecordError:
    return RecordError(f"{where} {what}: the log was edited. Remove that line if the rest is to be kept.")


def _key(choice: Choice) -> str:
    return json.dumps(choice, sort_keys=True)
