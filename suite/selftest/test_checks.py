"""What a run checks ahead, and what it leaves alone; nothing runs here."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from kernels.discover import KernelInfo, load_problems, problem_key
from suite.checks import Checks
from suite.device.detect import choose, detect
from suite.measure.campaign import Campaign
from suite.run_journal import RunJournal
from suite.selection import Case, Selection

PROBLEM = problem_key(next(p for p in load_problems("kv")[1] if p.task == "gather"))


def case(name: str, origin: str = "hand", uses_triton: bool = False) -> Case:
    return Case(KernelInfo(f"kv/{name}", "kv", origin, ("gather",), uses_triton, ""), PROBLEM)


class Events(list[dict[str, Any]]):
    """A journal's, which count how often all are gone through."""

    read = 0

    def __iter__(self) -> Any:
        self.read += 1
        return super().__iter__()


def checks_of(events: Events) -> Checks:
    campaign = cast(Campaign, SimpleNamespace(phases_s={}, draw_seed=lambda *what: 5))
    journal = cast(RunJournal, SimpleNamespace(events=events))
    described: dict[str, Any] = {"broken": {}, "unsupported": {}}
    chosen = choose("cpu", detect()).device
    return Checks(campaign, journal, cast(Selection, SimpleNamespace(problems={})), chosen, described)


def silent(text: str) -> None:
    pass


def recorded(case: Case) -> dict[str, Any]:
    return {"event": "check", "stage": "correctness", "kernel": case.kernel.id, "problem": PROBLEM, "reason": "",
            "distribution": "normal", "status": "correct"}  # fmt: skip


def test_what_a_resumed_run_has_recorded_is_looked_up_once() -> None:
    cases = [case(f"k{number}") for number in range(8)]
    events = Events(recorded(c) for c in cases)
    checks = checks_of(events)
    checks.ahead(cases, silent)
    read = events.read
    checks.ahead(cases, silent)
    assert read == events.read == len(cases)


def test_to_time_kernels_none_is_checked_that_cannot_be_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Case] = []
    vendor, interpreted, reference = case("v"), case("t", uses_triton=True), case("r", "reference")
    checks = checks_of(Events())
    monkeypatch.setattr(checks, "ahead", lambda cases, say: asked.extend(cases))
    monkeypatch.setattr(checks, "of", lambda case, say: [{"status": "correct"}])
    assert checks.fit([vendor, interpreted, reference], silent) == {vendor, reference}
    assert asked == [vendor]


def test_the_interpreter_runs_every_distribution_somewhere_and_one_on_each_problem() -> None:
    checks = checks_of(Events())
    decodes = [problem_key(p) for p in load_problems("mla")[1] if p.task == "decode"]
    triton = case("t", uses_triton=True).kernel
    interpreted = [checks._distributions(Case(triton, problem)) for problem in decodes]
    assert {len(distributions) for distributions in interpreted} == {1}
    every = checks._distributions(Case(case("v").kernel, decodes[0]))
    assert {distribution for (distribution,) in interpreted} == set(every)
    assert len(every) > 1


@pytest.mark.parametrize(("reason", "status"), [("hung", "failed"), ("tampered", "incorrect")])
def test_a_kernel_that_hung_or_tampered_once_is_not_tried_again(reason: str, status: str) -> None:
    guilty, other = case("guilty"), case("other")
    checks = checks_of(Events([recorded(guilty) | {"status": status, "reason": reason}, recorded(other)]))
    refused = checks.cannot_run(guilty.kernel, "kv/another")
    assert refused is not None
    assert (refused["status"], refused["reason"]) == (status, reason)
    assert refused["sentence"].endswith(f" on {PROBLEM} and was not tried again.")
    assert checks.cannot_run(other.kernel, "kv/another") is None
