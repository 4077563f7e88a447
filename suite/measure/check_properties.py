"""In the parent: random problems off the sweep for one kernel, until one is found wrong, and the smallest such.

Hypothesis draws the problems and makes a wrong one smaller. All randomness comes from the run's seed, which no kernel
sees before its inputs and which run.json keeps: the same seed draws the same problems, for every kernel.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kernels.discover import KernelInfo, load_problems, load_properties, problem_key
from kernels.problem import Problem
from kernels.property import PropertySuite

from .campaign import CASE_TIMEOUT_S, Campaign, ask_referee
from .crew import RunError
from .folders import remove
from .stopwatch import Stopwatch

NUM_PROBLEMS, NUM_CPU_PROBLEMS, FEWEST_PROBLEMS = 10, 6, 2
"""For a kernel, shared by its tasks; the second on the CPU and in Triton's interpreter, the third for each task."""
NUM_PROPERTIES = 4
"""Tried on each problem: neighbours in the family's list, from a place that is drawn as well."""
KERNEL_BUDGET_S, CPU_KERNEL_BUDGET_S = 20.0, 12.0
"""The same: after it no new problem is begun. Most take a fraction; kernels that compile for each problem, or are
interpreted, take it all."""
PROBLEM_BUDGET_S = 8.0
"""After this no further property of a problem is begun."""
SHRINK_BUDGET_S = 10.0
"""How long a wrong problem is made smaller; not where each try costs a process."""

Record = dict[str, Any]
_one_draws = threading.Lock()
"""Hypothesis came to be safe in threads lately."""


def check_properties(
    campaign: Campaign, kernel: KernelInfo, num_problems: int | None = None, seed: int | None = None
) -> list[Record]:
    """Check a kernel on random problems; journal and return a check's record for each, a wrong one first and alone.

    `seed` draws problems and inputs, by default the run's. RunError where the referee cannot judge.
    """
    records: list[Record] = []
    for search in (searches := _searches(campaign, kernel, campaign.seed if seed is None else seed)):
        records += search.run(num_problems, len(searches))
    _write(campaign, records)
    return records


def check_in_company(campaign: Campaign, kernel: KernelInfo) -> None:
    """The same on the same problems, while other kernels are checked: what goes wrong there is forgotten, and all else
    that was found of this kernel with it."""
    records: list[Record] = []
    for search in (searches := _searches(campaign, kernel, campaign.seed)):
        records += search.try_all(len(searches))
        if any(map(_is_wrong, records)):
            return
    _write(campaign, records)


def _searches(campaign: Campaign, kernel: KernelInfo, seed: int) -> list[_Search]:
    suites = load_properties(kernel.family).items()
    return [_Search(campaign, kernel, task, suite, seed) for task, suite in suites if task in kernel.tasks]


def _write(campaign: Campaign, records: list[Record]) -> None:
    for record in records:
        campaign.journal.append({"event": "check"} | record)


@dataclass(frozen=True)
class _Example:
    """What is drawn."""

    problem: Problem
    distribution: str
    first: int
    """Place of the first property that is tried, in the family's list."""


@dataclass
class _Search:
    """The problems of one task that one kernel was tried on."""

    campaign: Campaign
    kernel: KernelInfo
    task: str
    suite: PropertySuite
    seed: int
    examined: dict[_Example, Record] = field(default_factory=dict)
    """What is drawn again is not run again."""
    error: Exception | None = None
    found: bool = False
    """Whether a wrong problem was found, and is being made smaller."""
    deadline: float = 0.0

    def run(self, num_problems: int | None, shares: int) -> list[Record]:
        """Records of all problems, or of the smallest wrong one; in one of so many shares of the kernel's budget."""
        if (drawn := self._begin(shares)) is None:
            return []
        with Stopwatch(self.campaign.phases_s, "check"):
            wrong = _smallest_wrong(drawn, self._is_right, num_problems or self._most, self.seed)
        if self.error:
            raise self.error
        return [self.examined[wrong]] if wrong else list(self.examined.values())

    def try_all(self, shares: int) -> list[Record]:
        """The same, but for making a wrong problem smaller: records end with the first wrong one."""
        if (drawn := self._begin(shares)) is None:
            return []
        examples: dict[_Example, None] = {}
        with _one_draws:
            _smallest_wrong(drawn, lambda example: examples.setdefault(example) is None, self._most, self.seed)
        for example in examples:
            if not self._is_right(example):
                break
        if self.error:
            raise self.error
        return list(self.examined.values())

    def _begin(self, shares: int) -> Any:
        """The strategy that examples are drawn from; the budget counts from here. None where nothing can run them."""
        from hypothesis import strategies as st

        role, device, tensors_on = self.campaign.place(self.kernel, self._some_problem())
        if device is None:
            return None
        self.place = role, asdict(device), tensors_on
        budget_s, most = (
            (CPU_KERNEL_BUDGET_S, NUM_CPU_PROBLEMS) if tensors_on == "cpu" else (KERNEL_BUDGET_S, NUM_PROBLEMS)
        )
        self._most = max(FEWEST_PROBLEMS, most // shares)
        self.deadline = time.monotonic() + budget_s / shares
        return st.builds(
            _Example,
            self.suite.problems(device, role == "interpreter"),
            st.sampled_from(self.suite.problem_class.distributions),
            st.sampled_from(range(len(self.suite.properties))),
        )

    def _some_problem(self) -> str:
        """A problem of the sweep: where a case of this task runs."""
        tiers, hard_cases = load_problems(self.kernel.family)
        every = (*(p for tier in tiers.values() for p in tier), *hard_cases)
        return problem_key(next(problem for problem in every if problem.task == self.task))

    def _is_right(self, example: _Example) -> bool:
        """Whether the kernel may be right on a problem; yes without a look once the time is over."""
        if example not in self.examined:
            if self.error or time.monotonic() > self.deadline:
                return True
            try:
                self.examined[example] = self._examine(example)
            except (RunError, OSError) as error:  # told to the caller, past hypothesis
                self.error = error
                return True
            if _is_wrong(self.examined[example]) and not self.found:
                self.found = True
                cheap = self.examined[example]["reason"] not in ("hung", "crashed", "out_of_memory")
                self.deadline = time.monotonic() + (SHRINK_BUDGET_S if cheap else 0.0)
        return not _is_wrong(self.examined[example])

    def _examine(self, example: _Example) -> Record:
        (role, device, tensors_on), problem, distribution = self.place, example.problem, example.distribution
        seed = self.campaign.draw_seed("property", problem_key(problem), distribution, str(self.seed))
        names = list(self.suite.properties)
        names = (names[example.first :] + names)[: min(NUM_PROPERTIES, len(names))]
        case = {"family": self.kernel.family, "task": self.task, "fields": problem.field_values(),
                "tensors_on": tensors_on, "seed": seed, "distribution": distribution}  # fmt: skip
        folder = Path(tempfile.mkdtemp(dir=self.campaign.scratch))
        library = self.kernel.id in self.campaign.crew.libraries([self.kernel.id])
        message = {"op": "property", "kernels": [self.kernel.id], "library": library, "case": case, "device": device,
                   "properties": names, "output_dir": str(folder),
                   "budget_s": PROBLEM_BUDGET_S}  # fmt: skip
        reply = self.campaign.crew.request(role, message, CASE_TIMEOUT_S)
        kept = reply.get("kept", [])
        if reply["status"] == "ran":
            factors = self.campaign.factors.get(self.kernel.id, {})
            message = {"op": "referee_property", "case": case, "kept": kept, "factors": factors}
            reply = ask_referee(self.campaign.crew, message, self.kernel.id, problem.id)
        remove(folder)
        record = {"kernel": self.kernel.id, "problem": problem_key(problem), "distribution": distribution, "seed": seed}
        verdict = {name: reply[name] for name in ("status", "reason", "sentence")}
        return record | verdict | {"errors": reply.get("errors", {}), "stage": "property",
                                   "facts": {"fields": problem.field_values(), "properties": _tried(kept)}}  # fmt: skip


def _is_wrong(record: Record) -> bool:
    return record["status"] in ("incorrect", "failed")


def _tried(kept: list[Record]) -> list[str]:
    """The properties that outputs came back for."""
    return [name for name in dict.fromkeys(str(entry["property"]) for entry in kept) if name]


def _smallest_wrong(drawn: Any, is_right: Callable[[Any], bool], num_problems: int, seed: int) -> Any:
    """The smallest example that hypothesis finds wrong, or None. The same seed draws the same examples."""
    import hypothesis
    from hypothesis import HealthCheck, Phase, Verbosity

    last_wrong: list[Any] = []

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=num_problems, deadline=None, database=None, derandomize=False, print_blob=False,
        phases=(Phase.generate, Phase.shrink), report_multiple_bugs=False, verbosity=Verbosity.quiet,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @hypothesis.given(drawn)
    def search(example: Any) -> None:
        if not is_right(example):
            last_wrong[:] = [example]
            raise _WrongError

    try:
        search()
    except _WrongError:
        return last_wrong[0]
    return None


class _WrongError(Exception):
    """An example that the kernel is wrong on."""
