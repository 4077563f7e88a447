"""The search: rounds of candidates for every problem, evaluated in parallel and told in order, within a budget."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future, wait
from dataclasses import asdict, dataclass
from typing import Any

from kernels.discover import problem_key
from kernels.problem import Cost, Problem
from kernels.space import Space

from ..device.specs import DeviceSpec
from .evaluate import Reply, Request, evaluate
from .roofline import estimate_us
from .sampler import Sampler
from .trials import Result, Trials

PER_ROUND = 4
"""Candidates of each problem in a round: a GPU draws a problem's inputs once for all of them."""
FIGURES = ("function", "grid", "num_warps", "shared_memory_bytes", "registers", "spilled_registers",
           "matrix_instructions", "binary_sha256")  # fmt: skip


@dataclass(frozen=True)
class Budget:
    """When a search ends, whichever comes first."""

    wall_s: float
    """Over all sessions."""
    trials: int | None = None


@dataclass
class Search:
    """A space searched for one device."""

    space: Space
    family: str
    spec: DeviceSpec
    problems: Sequence[Problem]
    seed: int
    trials: Trials
    say: Callable[[str], None] = lambda text: None
    evaluate: Callable[[Request], Reply] = evaluate
    measured: bool = False
    """Whether `evaluate` times what compiles; a score is an estimate otherwise."""
    is_interrupted: bool = False
    """Whether Ctrl-C ended it."""

    def run(self, executor: Executor, budget: Budget) -> str:
        """Search until the budget is spent, or nothing new is found, or Ctrl-C. Returns which, as a sentence."""
        self._begun = time.monotonic()
        self._samplers = [Sampler(self.space, p, problem_key(p), self.spec.device(), self.seed) for p in self.problems]
        try:
            while not all(sampler.exhausted for sampler in self._samplers):
                if self._is_spent(budget):
                    return "The budget is spent."
                if not self._round(executor, budget):
                    return "The budget is spent."
            return "Nothing is left to try."
        except KeyboardInterrupt:
            self.is_interrupted = True
            return "It was interrupted; the best so far is kept."

    @property
    def elapsed_s(self) -> float:
        """Search time, over all sessions."""
        return self.trials.seen_s + time.monotonic() - self._begun

    def by_hand(self, problem: Problem) -> dict[str, Any]:
        """The choice that was made by hand."""
        return self.space.by_hand(problem, self.spec.device())

    def _round(self, executor: Executor, budget: Budget) -> bool:
        """One batch; False where the budget ended it."""
        asked = [(s, c) for s in self._samplers for _ in range(PER_ROUND) if (c := s.ask(self.trials)) is not None]
        if budget.trials is not None:
            asked = self._first(asked, budget.trials)
        work = [(s, c, None if self.trials.find(s.key, c) else executor.submit(self.evaluate, self._request(s.key, c)))
                for s, c in asked]  # fmt: skip
        try:
            for sampler, choice, future in work:
                if future is not None and not self._finish(sampler, choice, future, budget):
                    return False
                known = self.trials.find(sampler.key, choice)
                assert known is not None
                sampler.tell(known)
        finally:
            for _, _, future in work:
                if future is not None:
                    future.cancel()
        return bool(asked) or all(s.exhausted for s in self._samplers)

    def _first(self, asked: list[tuple[Sampler, dict[str, Any]]], most: int) -> list[tuple[Sampler, dict[str, Any]]]:
        """What is known already, and of the rest as many as may still be tried."""
        left, kept = most - len(self.trials.results), []
        for sampler, choice in asked:
            new = self.trials.find(sampler.key, choice) is None
            if not new or left > 0:
                kept.append((sampler, choice))
            left -= new
        return kept

    def _finish(self, sampler: Sampler, choice: dict[str, Any], future: Future[Reply], budget: Budget) -> bool:
        """Wait for one trial and log it; False where the budget is spent before it ends."""
        done, _ = wait([future], timeout=max(0.0, budget.wall_s - self.elapsed_s))
        if not done:
            return False
        try:
            reply = future.result()
        except Exception as error:  # noqa: BLE001 - an executor may lose its worker in its own way
            sentence = f"Its worker was lost: {type(error).__name__}: {error}"
            reply = {"status": "failed", "reason": "lost_worker", "sentence": sentence}
        self.trials.add(self._result(sampler.key, choice, reply))
        self.say(self._progress())
        return True

    def _result(self, problem: str, choice: Mapping[str, Any], reply: Reply) -> Result:
        figures = {"launches": [{n: launch[n] for n in FIGURES if n in launch} for launch in reply.get("launches", ())]}
        if reply["status"] not in ("compiled", "measured"):
            return Result(problem, choice, "failed", None, reply["reason"], reply["sentence"][:500], figures,
                          round(self.elapsed_s, 1))  # fmt: skip
        case = next(p for p in self.problems if problem_key(p) == problem)
        work = self.space.work(case, self.space.made(choice), self.spec.device())
        estimated_us = round(estimate_us(Cost(**reply["cost"]), work, reply["launches"], self.spec), 3)
        if reply["status"] == "compiled":
            return Result(problem, choice, "ranked", estimated_us, "", "", figures, round(self.elapsed_s, 1))
        figures |= {"estimated_us": estimated_us} | {name: reply[name] for name in ("by_hand_us", "device_s")}
        return Result(problem, choice, "measured", reply["time_us"], "", "", figures, round(self.elapsed_s, 1))

    def _request(self, problem: str, choice: dict[str, Any]) -> Request:
        return {"op": "compile_choice", "family": self.family, "template": self.space.template, "problem": problem,
                "choice": choice, "device": asdict(self.spec.device())}  # fmt: skip

    def _is_spent(self, budget: Budget) -> bool:
        tried = len(self.trials.results)
        return self.elapsed_s >= budget.wall_s or (budget.trials is not None and tried >= budget.trials)

    def _progress(self) -> str:
        """One line: how many trials, and how the best stands against the choice by hand."""
        ratios = []
        for sampler, problem in zip(self._samplers, self.problems, strict=True):
            by_hand = self.trials.find(sampler.key, self.by_hand(problem))
            best = self.trials.best(sampler.key)
            if by_hand is not None and by_hand.score_us and best is not None and best.score_us:
                ratios.append(by_hand.score_us / best.score_us)
        failed = sum(self.trials.failures().values())
        how = "measured" if self.measured else "estimated"
        mean = f"; {how} {_geomean(ratios):.2f}x of the choice by hand" if ratios else ""
        best_now = next(reversed(self.trials.results.values()))
        return f"{len(self.trials.results)} trials, {failed} failed{mean}; last {best_now.problem}: {best_now.status}"


def _geomean(values: Sequence[float]) -> float:
    product = 1.0
    for value in values:
        product *= value
    return float(product ** (1 / len(values)))
