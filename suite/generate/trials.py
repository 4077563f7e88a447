"""What a search has tried: the trial log, an append-only file that survives SIGKILL and that --resume reads."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..record.journal import Journal, read_journal
from ..record.schema import RecordError

LOG_NAME = "trials.jsonl"
Choice = Mapping[str, Any]


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


def has_log(folder: Path) -> bool:
    """Whether a search was begun there."""
    return (folder / LOG_NAME).exists()


class Trials:
    """All results of a search, in memory and on disk."""

    def __init__(self, folder: Path, header: Mapping[str, Any], resume: bool) -> None:
        """Begin a log in `folder`, or go on with the one there. RecordError where it is another search's."""
        path = folder / LOG_NAME
        if path.exists() != resume:
            raise RecordError(f"{path}: {'there is no search to resume' if resume else 'exists: --resume goes on'}.")
        self.results: dict[tuple[str, str], Result] = {}
        self.seen_s = 0.0
        """Search time of the sessions before this one."""
        events = read_journal(path) if resume else []
        self._journal = Journal(path)
        if not events:
            self._journal.append({"event": "search", **header})
            return
        first = {name: value for name, value in events[0].items() if name != "event"}
        other = [name for name, value in json.loads(json.dumps(dict(header))).items() if first.get(name) != value]
        if events[0]["event"] != "search" or other:
            self.close()
            raise RecordError(f"{path}: is the log of another search; it differs in {', '.join(other) or 'its form'}.")
        for event in events[1:]:
            self._keep(Result(**{name: value for name, value in event.items() if name != "event"}))
        self.seen_s = max((result.elapsed_s for result in self.results.values()), default=0.0)

    def add(self, result: Result) -> None:
        """Remember a result; returns when it is on disk."""
        self._journal.append({"event": "trial", **vars(result)})
        self._keep(result)

    def find(self, problem: str, choice: Choice) -> Result | None:
        """What became of it, if it was tried."""
        return self.results.get((problem, _key(choice)))

    def best(self, problem: str) -> Result | None:
        """The fastest for a problem; of equals the first tried."""
        ranked = [r for r in self.of(problem) if r.score_us is not None]
        return min(ranked, key=lambda r: r.score_us or 0.0) if ranked else None

    def of(self, problem: str) -> Iterator[Result]:
        """Results for a problem, in order."""
        return (result for result in self.results.values() if result.problem == problem)

    def failures(self) -> dict[str, int]:
        """Reason code -> how many."""
        return dict(sorted(Counter(r.reason for r in self.results.values() if r.status == "failed").items()))

    def close(self) -> None:
        """Give up the file."""
        self._journal.close()

    def _keep(self, result: Result) -> None:
        self.results[result.problem, _key(result.choice)] = result


def _key(choice: Choice) -> str:
    return json.dumps(choice, sort_keys=True)
