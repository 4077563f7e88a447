"""One foreign kernel, tried in full: is it right wherever it is asked, and what does it take beside an honest rival?

Correctness comes first, on every distribution of every problem, in a worker that has run nothing else. Only what passed
is timed, next to its rival. The first thing found ends the audition.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from kernels.discover import load_problems

from .crew import RunError
from .trial import Trial

PASSED = "passed"
RIVAL_ACCUSED = "rival_accused"
"""The kernel beside it, known to be honest, was found wrong or failed: the judge may not end there."""
STAGE_CHECK, STAGE_LAUNCH = "check", "launch"
ANY_DISTRIBUTION = "normal"
"""Every family has it."""


@dataclass(frozen=True)
class Outcome:
    """What an audition ended with."""

    status: str
    """`passed`, `incorrect`, `failed` or `skipped`."""
    reason: str
    """The judge's reason code, or `passed`."""
    sentence: str
    stage: str
    """`check` or `launch`: where it was found; of a kernel that passed, how far it came."""
    ratio: float | None = None
    """Times as fast as the rival, of a kernel that passed the launches: geometric mean over problems and launches."""


def audition(
    trial: Trial,
    kernel: str,
    problems: Sequence[str],
    rival: str,
    launches: int = 1,
    check_only: Sequence[str] = (),
    fresh: bool = True,
) -> Outcome:
    """Try `kernel` of the trial's tree on `problems`, then time it there beside `rival`.

    `check_only` are problems (hard cases, others off the sweep) that it must solve but is not timed on. Unless `fresh`,
    it is checked in the process that the kernel before it was checked in.
    RunError where nothing can be judged, through no fault of the kernel's.
    """
    if fresh:
        fresh_workers(trial)
    stage = STAGE_CHECK
    try:
        found = check(trial, kernel, [*problems, *check_only])
        found = found or _rival_still_right(trial, kernel, problems[0], rival)
        stage = STAGE_LAUNCH
        return found or time_beside(trial, [kernel], problems, rival, launches)[kernel]
    except RunError as error:
        if not trial.campaign.changed_files():
            raise
        return Outcome("incorrect", "tampered", str(error), stage)  # nobody else works in a trial's tree


def fresh_workers(trial: Trial) -> None:
    """End the workers that run kernels: what another kernel left in a process is no fault of the next."""
    for role in ("candidate", "launch", "interpreter"):
        trial.campaign.crew.retire(role)


def check(trial: Trial, kernel: str, problems: Iterable[str]) -> Outcome | None:
    """The first fault on any distribution of any problem; None where there is none. Problems that it does not support
    count for nothing, unless that is all of them."""
    skipped, answered = None, False
    for problem in problems:
        for distribution in distributions_of(problem):
            record = trial.check(kernel, problem, distribution)
            if record["status"] == "skipped":
                skipped = skipped or _outcome(record, STAGE_CHECK)
            elif record["status"] != "correct":
                return _outcome(record, STAGE_CHECK)
            else:
                answered = True
    return None if answered else skipped


def time_beside(
    trial: Trial, kernels: Sequence[str], problems: Sequence[str], rival: str, launches: int
) -> dict[str, Outcome]:
    """All `kernels` and the rival in each of `launches` launches. Returns an outcome for every kernel."""
    trial.campaign.witness_always = True  # the next launch may be another kernel's first
    outcomes: dict[str, Outcome] = {}
    scores: dict[str, list[float]] = {kernel: [] for kernel in kernels}
    for _ in range(launches):
        running = [kernel for kernel in kernels if kernel not in outcomes]
        if not running:
            break
        measurements, failures = trial.launch({problem: [*running, rival] for problem in problems})
        for failure in sorted(
            failures, key=lambda failure: failure["kernel"] == rival
        ):  # who fails with it is no judge
            if failure["kernel"] == rival:
                accused = f"The rival {rival}, beside {', '.join(running)}: {failure['sentence']}"
                told = Outcome("failed", RIVAL_ACCUSED, accused, STAGE_LAUNCH)
                outcomes |= {kernel: outcomes.get(kernel, told) for kernel in running}
            else:
                outcomes.setdefault(failure["kernel"], _outcome({"status": "failed"} | failure, STAGE_LAUNCH))
        for measurement in measurements:
            _score(measurement["times_us"], rival, scores)
    for kernel in kernels:
        if kernel not in outcomes:
            outcomes[kernel] = _passed(scores[kernel])
    return outcomes


def distributions_of(problem: str) -> tuple[str, ...]:
    """Every distribution that a problem is checked on; of one that only the trial's tree knows, those of its task."""
    family, _, name = problem.partition("/")
    try:
        tiers, hard_cases = load_problems(family)
    except ValueError:  # only the trial's tree has this family
        return (ANY_DISTRIBUTION,)
    known = [*hard_cases, *(p for tier in tiers.values() for p in tier)]
    kin = [p for p in known if p.id == name] or [p for p in known if p.task == name.partition("-")[0]]
    return kin[0].distributions if kin else (ANY_DISTRIBUTION,)


def _rival_still_right(trial: Trial, kernel: str, problem: str, rival: str) -> Outcome | None:
    """Whether the rival, checked in the process that the kernel ran in, is still found right."""
    record = trial.check(rival, problem)
    if record["status"] == "correct":
        return None
    sentence = f"After {kernel} ran in its process, {rival} was found wrong: {record['sentence']}"
    return Outcome("failed", RIVAL_ACCUSED, sentence, STAGE_CHECK)


def _score(times_us: dict[str, list[float]], rival: str, scores: dict[str, list[float]]) -> None:
    """Add each kernel's launch score: the median over blocks of ln(rival / kernel)."""
    for kernel, own_us in times_us.items():
        if kernel in scores and rival in times_us:
            blocks = [math.log(b / a) for a, b in zip(own_us, times_us[rival], strict=True) if a > 0 and b > 0]
            scores[kernel].append(statistics.median(blocks) if blocks else math.nan)


def _passed(scores: list[float]) -> Outcome:
    if not scores:
        return Outcome("failed", "not_measured", "Its launches gave no time.", STAGE_LAUNCH)
    ratio = math.exp(statistics.fmean(scores))
    return Outcome(PASSED, PASSED, f"It is right everywhere, at {ratio:.2f}x its rival.", STAGE_LAUNCH, ratio)


def _outcome(record: dict[str, Any], stage: str) -> Outcome:
    where = f"{record['problem']}" + (f", {record['distribution']}" if "distribution" in record else "")
    return Outcome(record["status"], record["reason"], f"{record['sentence']} ({where})", stage)
