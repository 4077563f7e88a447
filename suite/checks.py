"""The correctness checks of one run: each kernel on each problem once, over all input distributions.

What was checked stands in the journal and is not checked again, also not after `--resume`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from kernels.device import Device
from kernels.discover import KernelInfo, load_problem, load_problems

from .measure.campaign import Campaign
from .measure.stopwatch import Stopwatch
from .run_journal import RunJournal
from .selection import Case, Selection
from .side_by_side import SETTLED, check_side_by_side, lanes_for

GIVEN_UP = {"hung": ("failed", "hung"), "tampered": ("incorrect", "tampered with its process")}
"""Reasons for which a kernel is not tried on further problems, each of which would cost minutes, or a new process that
takes 20 s to start beside a GPU -> (status, what it did)."""

Say = Callable[[str], None]


@dataclass
class Checks:
    """Asked case by case; several cases at once with `ahead`."""

    campaign: Campaign
    journal: RunJournal
    selection: Selection
    device: Device
    described: dict[str, Any]
    """What kernels said that they can run; see `describe.describe`."""
    _asked_ahead: set[Case] = field(default_factory=set)

    def of(self, case: Case, say: Say) -> list[dict[str, Any]]:
        """The checks of one kernel on one problem; stops at the first failure."""
        return self._run(self.campaign, case, say)

    def fit(self, cases: Iterable[Case], say: Say) -> set[Case]:
        """Those that can be timed here and are right; only what must be checked for that is checked, ahead."""
        cases = list(cases)
        self.ahead((c for c in cases if c.kernel.origin != "reference" and not self.is_interpreted(c.kernel)), say)
        return {case for case in cases if self._is_fit(case, say)}

    def ahead(self, cases: Iterable[Case], say: Say) -> None:
        """Check what was not checked yet, several cases at once where the machine has room for it.

        A kernel that goes wrong in company is asked alone from there on: each of its cases might hang for minutes.
        """
        new = [case for case in cases if case not in self._asked_ahead]
        self._asked_ahead.update(new)  # also what a resumed run has recorded: that is looked up once
        todo = [case for case in new if not self._recorded(case)]
        wrong: set[str] = set()

        def check(lane: Campaign, case: Case) -> None:
            if case.kernel.id not in wrong and self._run(lane, case, _mute)[-1]["status"] not in SETTLED:
                wrong.add(case.kernel.id)

        # The largest problems first: what is left at the end, one lane does while the others wait.
        todo.sort(key=lambda case: load_problem(case.problem).memory_bytes(), reverse=True)
        num_lanes = lanes_for(len(todo), self.device.kind)
        if num_lanes > 1:
            with Stopwatch(self.campaign.phases_s, "check"):
                # One lane a problem: its referee computes each reference once.
                check_side_by_side(self.campaign, todo, num_lanes, check, say, lambda case: case.problem)

    def _is_fit(self, case: Case, say: Say) -> bool:
        """Whether a kernel can be timed here and is right on a problem; the reference is right by definition."""
        if self.is_interpreted(case.kernel):
            return False
        if case.kernel.origin == "reference":
            return self.cannot_run(case.kernel, case.problem) is None
        return all(check["status"] == "correct" for check in self.of(case, say))

    def _run(self, campaign: Campaign, case: Case, say: Say) -> list[dict[str, Any]]:
        done = {c["distribution"]: c for c in self._recorded(case)}
        results = []
        for distribution in self._distributions(case):
            if distribution not in done:
                say(f"checking {case.kernel.id} on {case.problem} ({distribution})")
                done[distribution] = self._check(campaign, case, distribution)
            results.append(done[distribution])
            if results[-1]["status"] != "correct":
                break
        return results

    def _recorded(self, case: Case) -> list[dict[str, Any]]:
        return [
            event
            for event in self.journal.events
            if event["event"] == "check"
            and event["stage"] == "correctness"
            and (event["kernel"], event["problem"]) == (case.kernel.id, case.problem)
        ]

    def _distributions(self, case: Case) -> tuple[str, ...]:
        """All that the problem declares; the interpreter, which is slow, takes one for each problem.

        Of the sweep the first; of a task's hard cases each in turn, from one that the run's seed draws.
        """
        problem = load_problem(case.problem)
        every = problem.distributions
        if not self.is_interpreted(case.kernel):
            return every
        if case.problem in self.selection.problems:
            return every[:1]
        kin = [hard for hard in load_problems(problem.family)[1] if hard.task == problem.task]
        turn = self.campaign.draw_seed("interpreted", problem.family, problem.task) + kin.index(problem)
        return (every[turn % len(every)],)

    def _check(self, campaign: Campaign, case: Case, distribution: str) -> dict[str, Any]:
        trouble = self.cannot_run(case.kernel, case.problem)
        if trouble is None:
            return campaign.check(case.kernel, case.problem, distribution)
        record = {"kernel": case.kernel.id, "problem": case.problem, "distribution": distribution, "seed": None}
        entry = record | trouble | {"errors": {}, "stage": "correctness"}
        campaign.journal.append({"event": "check"} | entry)
        return entry

    def cannot_run(self, kernel: KernelInfo, problem: str) -> dict[str, str] | None:
        """Why a case is not tried: status, reason and sentence, or None."""
        broken = kernel.broken or self.described["broken"].get(kernel.id)
        if broken:
            reason = self.described.get("reasons", {}).get(kernel.id, "raised")
            return {"status": "failed", "reason": reason, "sentence": broken}
        for reason, (status, did) in GIVEN_UP.items():
            if seen_on := self._problem_of(kernel.id, reason):
                sentence = f"It {did} on {seen_on} and was not tried again."
                return {"status": status, "reason": reason, "sentence": sentence}
        why = self.described["unsupported"].get(kernel.id, {}).get(problem)
        if why and not (self.is_interpreted(kernel) and "cannot be imported" not in why):
            return {"status": "skipped", "reason": "not_supported", "sentence": why}
        return None

    def missing_module(self, kernel: KernelInfo) -> str | None:
        """Why a kernel can run nothing here: a module that it requires cannot be imported. Or None."""
        whys = self.described["unsupported"].get(kernel.id, {}).values()
        return next((why for why in whys if "cannot be imported" in why), None)

    def _problem_of(self, kernel: str, reason: str) -> str | None:
        """The problem on which the kernel went wrong so in this run."""
        checks = (event for event in self.journal.events if event["event"] == "check" and event["kernel"] == kernel)
        return next((str(check["problem"]) for check in checks if check["reason"] == reason), None)

    def is_interpreted(self, kernel: KernelInfo) -> bool:
        """Triton kernels are checked in the interpreter on a machine without a GPU, and not timed there."""
        return kernel.uses_triton and self.device.kind == "cpu"


def _mute(text: str) -> None:
    """Lanes say nothing each: `check_side_by_side` tells of all."""
