"""One run, end to end: what was selected is checked, measured until it is decided, judged and recorded.

Lazy: nothing starts before the first question, and no question is measured twice, also not after `--resume`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from kernels.device import Device
from kernels.discover import KernelInfo, load_problem

from . import ahead, stored_scores
from .canary_call import ask_canary, found_unfit
from .checks import Checks
from .device.detect import ChosenDevice
from .device.fitness import why_unfit_after
from .device.specs import load_specs
from .judge.comparisons import Comparison, Court, Ruling, is_outrun, kernel_trouble
from .judge.static_pass import recorded_findings
from .judge.verdict import Reason, Status, Verdict
from .measure.campaign import Campaign, problem_entry
from .measure.crew import Crew, RunError, UnfitError
from .measure.stopwatch import Stopwatch
from .record.schema import now_utc
from .record.scores import paired_times
from .run_journal import Options, RunJournal
from .selection import Case, Selection

INTERPRETED_DEVICES = ("h100", "mi300x")
"""GPUs whose plans Triton's interpreter executes; the second has the fp8 type that the first lacks."""


@dataclass
class Bench:
    """The state of one run. `close` ends it and writes run.json."""

    options: Options
    chosen: ChosenDevice
    selection: Selection
    say: Callable[[str], None] = lambda text: None
    comparisons: tuple[Comparison, ...] = ()
    """What will be asked; set before the first question, so that all pairs are measured in the same launches."""
    cases: tuple[Case, ...] = ()
    """What will be checked; set before the first question, so that several can be checked at once."""
    property_kernels: tuple[KernelInfo, ...] = ()
    """What will be tried on random problems; likewise."""
    journal: RunJournal | None = None
    unfit: str | None = None
    """What ended the run, where it was the device."""
    _campaign: Campaign | None = None
    _checks: Checks | None = None
    _rulings: dict[str, Ruling] = field(default_factory=dict)

    # What is asked

    def check(self, case: Case) -> list[dict[str, Any]]:
        """The checks of one kernel on one problem over all its input distributions; stops at the first failure."""
        checks = self.checks()
        checks.ahead(self.cases, self.say)
        return checks.of(case, self.say)

    def ruling(self, comparison: Comparison) -> Ruling:
        """The verdict on one comparison. The first call measures all of `comparisons`."""
        if not self._rulings:
            self._measure()
        return self._rulings[comparison.id]

    def times_us(self, kernel: str, problem: str) -> list[float]:
        """Every timed call of a kernel on a problem, in order."""
        launches = paired_times(self.run()["launches"], (kernel,), problem).values()
        return [time_us for times in launches for time_us in times[kernel]]

    def run(self) -> dict[str, Any]:
        """The record so far."""
        assert self.journal is not None
        return self.journal.run()

    def close(self, exit_status: int) -> Path | None:
        """Record verdicts, phases and the end, and write run.json. None where nothing was started."""
        if self.journal is None:
            return None
        campaign, self._campaign = self._campaign, None
        if campaign is not None:  # or it was interrupted before there was one
            campaign.close()
        if self._rulings:
            verdicts = [ruling.to_json() for ruling in self._rulings.values()]
            self.journal.append({"event": "verdicts", "verdicts": verdicts})
        phases_s = {name: round(value, 3) for name, value in (campaign.phases_s if campaign else {}).items()}
        self.journal.append({"event": "phases", "phases_s": phases_s})
        end = {"event": "end", "finished_utc": now_utc(), "exit_status": exit_status, "unfit": self.find_unfit()}
        self.journal.append(end)
        return self.journal.close()

    def find_unfit(self) -> str | None:
        """Why the runner was not fit to judge: its canary, what befell the device, or that it was lost; or None."""
        return self.unfit or (found_unfit(self.run()) if self.journal else None)

    # Starting

    def campaign(self) -> Campaign:
        """Start the run: its folder, journal and workers."""
        if self._campaign is None:
            families = {p.family for p in self.selection.problems.values()}
            self.journal = RunJournal(self.options, self.chosen, families)
            base_root = self.options.base[2] if self.options.base else None
            crew = Crew(self.options.root, self.chosen, self.options.run_dir / "workers.log", base_root)
            self._campaign = Campaign(crew, self.journal, self.journal.run_id, self.journal.seed, _interpreted_device)
            described = self._describe(self._campaign, self.journal)
            self._checks = Checks(self._campaign, self.journal, self.selection, self.chosen.device, described)
            if self.chosen.device.kind != "cpu":
                ask_canary(self._campaign, self.journal, self.chosen, self.say)
            self._precompile(self._campaign)
        return self._campaign

    def checks(self) -> Checks:
        """What is known to be right, and what cannot run; starts the run."""
        self.campaign()
        assert self._checks is not None
        return self._checks

    def _describe(self, campaign: Campaign, journal: RunJournal) -> dict[str, Any]:
        """Ask a worker what runs here, and record kernels and problems."""
        everything = self.selection.kernels | self.selection.base_kernels
        problems = list(self.selection.problems | self.selection.hard_cases)
        sound = [k.id for k in everything.values() if not k.broken]  # as far as reading them tells
        self.say(f"asking {len(sound)} kernels what they can run")
        described = campaign.describe(sound, problems)
        if described["status"] != "ran":
            raise RunError(f"The kernels could not be asked what they can run. {described['sentence']}")
        importable = set(sound) - set(described["broken"])  # a crash would take the spare worker with it
        campaign.crew.warmed_kernels = sorted(importable & self.selection.kernels.keys())
        recorded = {event["id"] for event in journal.events if event["event"] == "problem"}
        for problem in (p for p in problems if p not in recorded):
            nothing = dict.fromkeys(("flops", "cold_read_bytes", "write_bytes", "compute_dtype", "light_speed_us"))
            journal.append({"event": "problem", "id": problem} | problem_entry(problem) | nothing)
        for kernel in everything.values():
            version = described["versions"].get(kernel.id, "")
            entry = {"family": kernel.family, "origin": kernel.origin, "version": version,
                     "source_sha256": kernel.sha256,
                     "findings": recorded_findings(kernel, self.options.root)}  # fmt: skip
            journal.append({"event": "kernel", "id": kernel.id} | entry)
        return described

    def _precompile(self, campaign: Campaign) -> None:
        """Compile all Triton kernels that will run, in parallel, outside the measured launches."""
        with Stopwatch(campaign.phases_s, "compile"):
            ahead.precompile(self.comparisons, self.selection, self.chosen.device, campaign.crew.base_root, self.say)

    # Measuring

    def _measure(self) -> None:
        """Check whatever will be timed, then launch until every comparison is decided."""
        campaign = self.campaign()
        campaign.crew.prepare_spares()
        self._mark_unchanged(campaign)
        court = self._court()
        askable = [c for c in self.comparisons if self.selection.missing(c) is None]
        fit = self._fit_for_timing(askable)
        if fit and not self.run()["ceilings"]:
            self.say("measuring the device's ceilings")
            campaign.journal.append({"event": "ceilings"} | campaign.ceilings())
        campaign.crew.retire("candidate")  # and with it the memory that its allocator holds
        index = sum(launch["complete"] for launch in self.run()["launches"])  # of the run that is resumed
        while index < self.options.max_launches:
            run = self.run()
            undecided = [c for c in askable if not court.rule(c, run).decided]
            work = self._work(run, undecided, {pair for pair in fit if kernel_trouble(run, *pair) is None})
            if not work:
                break
            index = self._launch(campaign, work, len(undecided))
            if unfit := why_unfit_after(self.run()):  # its times are not stored either
                raise UnfitError(unfit)
            stored_scores.append(self.run(), self.options.root, self.comparisons)
        self._rulings = {c.id: self._rule(court, c) for c in self.comparisons}

    def _mark_unchanged(self, campaign: Campaign) -> None:
        """Comparisons with a base that compiles to the same code need no launch."""
        if not self.options.base:
            return
        self.say("comparing compiled code with the base's")
        with Stopwatch(campaign.phases_s, "compile"):
            same = ahead.unchanged(
                self.comparisons, self.selection, self.chosen.device, self.options.root, self.options.base[2]
            )
        self.comparisons = tuple(replace(c, unchanged=c.id in same) for c in self.comparisons)

    @property
    def started(self) -> bool:
        """Whether anything was asked that needed a worker."""
        return self.journal is not None

    def _launch(self, campaign: Campaign, work: dict[str, list[str]], undecided: int) -> int:
        """The next launch, or the rest of one that was cut off. Returns its index."""
        launches = self.run()["launches"]
        cut_off = bool(launches) and not launches[-1]["complete"]
        index = launches[-1]["index"] if cut_off else len(launches) + 1
        done = {m["problem"] for m in launches[-1]["measurements"]} if cut_off else set()

        def progress(problem: str) -> None:
            number = list(work).index(problem) + 1
            self.say(f"launch {index}, {undecided} pairs undecided: problem {number} of {len(work)}, {problem}")

        campaign.launch(index, work, cut_off, done, progress)
        return int(index)

    def _fit_for_timing(self, comparisons: Iterable[Comparison]) -> set[tuple[str, str]]:
        """(kernel, problem) of all that is correct and can be timed here."""
        pairs = {(k, c.problem): None for c in comparisons if not c.unchanged for k in self.selection.contestants(c)}
        cases = [Case(self.selection.info(kernel), problem) for kernel, problem in pairs]
        return {(case.kernel.id, case.problem) for case in self.checks().fit(cases, self.say)}

    def _work(
        self, run: dict[str, Any], undecided: Collection[Comparison], fit: set[tuple[str, str]]
    ) -> dict[str, list[str]]:
        """Problem -> kernels of the next launch. The reference is timed only where there is no vendor's kernel.

        Of rivals that one launch showed to be far behind, no more is asked, unless a claim names them.
        """
        work: dict[str, list[str]] = {}
        rivals = {pair for pair in fit if self.selection.info(pair[0]).origin in ("vendor", "reference")}
        in_running = fit - {pair for pair in rivals if is_outrun(run, *pair)}
        for comparison in undecided:
            wanted = fit if comparison.rival else in_running
            able = [k for k in self.selection.contestants(comparison) if (k, comparison.problem) in wanted]
            vendors = [k for k in able if self.selection.info(k).origin != "reference"]
            chosen = able if comparison.rival or len(vendors) < 2 else vendors
            if len(chosen) > 1 and comparison.kernel in chosen:
                listed = work.setdefault(comparison.problem, [])
                listed.extend(k for k in chosen if k not in listed)
        return work

    # Judging

    def _court(self) -> Court:
        return Court(
            device_kind=self.chosen.device.kind,
            num_claims=len(self.selection.claims),
            num_bases=sum(c.kind == "base" for c in self.selection.comparisons()),
            now=datetime.now(timezone.utc),
            strict=self.options.strict,
            stored=stored_scores.load(self.run(), self.options.root, self.selection.claims),
        )

    def _rule(self, court: Court, comparison: Comparison) -> Ruling:
        missing = self.selection.missing(comparison)
        if missing:
            verdict = Verdict(Status.FAILED, Reason.NOT_MEASURED, missing, factor_claimed=comparison.factor)
            return Ruling(comparison, comparison.rival, verdict, red=True, decided=True)
        ruling = court.rule(comparison, self.run())
        kernel = self.selection.info(comparison.kernel)
        if self.checks().is_interpreted(kernel) and not comparison.unchanged:
            sentence = f"{kernel.id}: Triton kernels are timed on a GPU; on the CPU the interpreter only checks them."
            verdict = Verdict(Status.SKIPPED, Reason.NOT_SUPPORTED, sentence)
            trouble = kernel_trouble(self.run(), kernel.id, comparison.problem)
            return replace(ruling, verdict=trouble or verdict, red=comparison.kind == "claim")
        return ruling


def _interpreted_device(problem: str) -> Device | None:
    case, specs = load_problem(problem), {spec.key: spec for spec in load_specs()}
    devices = [specs[key].device() for key in INTERPRETED_DEVICES]
    return next((device for device in devices if case.unsupported_by(device) is None), None)
