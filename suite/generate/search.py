"""The search: choices of every problem, asked for ahead of the device and told in the order of asking, in a budget.

Nothing waits for a batch. A problem's next choice is asked for as soon as the results of all but its latest few are in,
and exactly those have been told then: the same seed and the same results give the same choices, however many workers
there are and in whichever order they finish.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Executor, Future, wait
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from kernels.discover import problem_key
from kernels.problem import Cost, Problem
from kernels.space import Space

from ..device.specs import DeviceSpec
from ..record.journal import JournalError
from .evaluate import Reply, Request, evaluate
from .roofline import estimate_us
from .sampler import Sampler
from .timing import DeviceGoneError, Timing
from .trials import Again, Result, Trials

LEAST_AHEAD = 4
"""Choices of a problem that are asked for before the result of the first of them must be told."""
AHEAD = 48
"""The same over all problems, where there are few: three for each of 16 processes that compile."""
FINALISTS = 3
"""Of each problem, the fastest that are timed again while a GPU has nothing else to do."""
NEAR = 1.1
"""Only what is within so much of the fastest."""
MOST_TIMES = 7
MOST_LOST = 8
"""Workers lost one after the other, with no reply between: there are none left."""
LOST = "lost_worker"
INTERRUPTED, UNFIT = 130, 6
LOOK_EVERY_S = 0.05
SAY_EVERY_S = 0.25
FIGURES = ("function", "grid", "num_warps", "shared_memory_bytes", "registers", "spilled_registers",
           "matrix_instructions", "binary_sha256")  # fmt: skip


@dataclass(frozen=True)
class Budget:
    """When a search ends, whichever comes first."""

    wall_s: float
    """Over all sessions."""
    trials: int | None = None


class Ended(Exception):
    """The search cannot go on; the text says why."""

    def __init__(self, sentence: str, status: int = 1) -> None:
        super().__init__(sentence)
        self.status = status


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
    gpus: int = 0
    """That time what compiles; a score is an estimate where there are none."""
    status: int = 0
    """Of the command: `INTERRUPTED`, `UNFIT` where the device was lost, 1 where workers or room on the disk were."""
    took_s: float = 0.0
    """All of its time, over all sessions, once it has ended."""
    _ended: str = ""
    _flying: dict[Future[Reply], tuple[Sampler, int] | Result] = field(default_factory=dict)
    """What is being tried (sampler and number) or timed again."""
    _lost: list[Result] = field(default_factory=list)
    """Whose workers were lost, since the latest reply: logged with the next one. If none comes, no choice was tried."""
    _refused: set[tuple[str, int]] = field(default_factory=set)
    """Problem and number of what ran, and did not when it was timed again."""

    def begin(self, executor: Executor, budget: Budget) -> None:
        """Ask for the first choices; `run` follows."""
        self._begun, self._before_s, self._had_s = time.monotonic(), self.trials.seen_s, self.trials.device_s
        self._said = 0.0
        self._executor, self._budget = executor, budget
        device = self.spec.device()
        self._samplers = [Sampler(self.space, p, problem_key(p), device, self.seed) for p in self.problems]
        self._ahead = max(LEAST_AHEAD, math.ceil(AHEAD / len(self._samplers)))
        self._quota = dict.fromkeys((sampler.key for sampler in self._samplers), 0)
        if isinstance(executor, Timing):
            for problem in self.problems:
                executor.prepare(self._request(problem_key(problem), self.by_hand(problem)))
        with self._ending():
            self._fill()

    def run(self) -> str:
        """Search until the budget is spent, or nothing new is found, or Ctrl-C. Returns which, as a sentence."""
        with self._ending():
            while self._flying and not self._ended:
                left_s = self._budget.wall_s - self.elapsed_s
                if left_s <= 0:
                    self._ended = "The budget is spent."
                    break
                done, _ = wait(self._flying, timeout=min(LOOK_EVERY_S, left_s), return_when=FIRST_COMPLETED)
                if done:
                    self._finish(done)
                    self._fill()
                    self._progress()
                self._time_again()
        with self._ending():  # what came in since is kept as well
            self._finish({f for f in self._flying if f.done() and not f.cancelled() and f.exception() is None})
        for future in self._flying:
            future.cancel()
        self.took_s = self.elapsed_s
        return self._ended or ("The budget is spent." if self._has_tried_all() else "Nothing is left to try.")

    @contextmanager
    def _ending(self) -> Iterator[None]:
        """What may end a search: kept as its last sentence."""
        try:
            yield
        except KeyboardInterrupt:
            self.status, self._ended = INTERRUPTED, "It was interrupted; the best so far is kept."
        except (Ended, JournalError) as error:
            self.status, self._ended = getattr(error, "status", 1), f"{error} The best so far is kept."

    @property
    def elapsed_s(self) -> float:
        """Search time, over all sessions."""
        return self._before_s + time.monotonic() - self._begun

    def busy_share(self) -> float:
        """The share of this session's time that GPUs were at work for it: drew inputs, checked and timed choices."""
        return (self.trials.device_s - self._had_s) / max(1e-9, (time.monotonic() - self._begun) * max(1, self.gpus))

    def by_hand(self, problem: Problem) -> dict[str, Any]:
        """The choice that was made by hand."""
        return self.space.by_hand(problem, self.spec.device())

    def _fill(self) -> None:
        """Ask for all that may be asked for now, a choice of each problem in turn."""
        while True:
            asked = [self._ask(sampler) for sampler in self._samplers]
            if not any(asked) and not self._raise_quota():
                return

    def _ask(self, sampler: Sampler) -> bool:
        """Have a problem's next choice tried; False where its time has not come, or there is none."""
        if sampler.exhausted or (self._budget.trials is not None and len(sampler.asked) >= self._quota[sampler.key]):
            return False
        while len(sampler.asked) - sampler.told >= self._ahead:
            known = self.trials.find(sampler.key, sampler.asked[sampler.told])
            if known is None:
                return False
            sampler.tell(known)
        choice = sampler.ask()
        if choice is not None and self.trials.find(sampler.key, choice) is None:
            future = self._submit(lambda: self._executor.submit(self.evaluate, self._request(sampler.key, choice)))
            self._flying[future] = (sampler, len(sampler.asked) - 1)
        return choice is not None

    def _raise_quota(self) -> bool:
        """Where trials are limited: share out what is left once every problem has had its part. False where none is.

        No order of arrival plays a part, so that the same trials are tried every time.
        """
        if self._budget.trials is None:
            return False
        left = self._budget.trials - sum(len(sampler.asked) for sampler in self._samplers)
        open_ = [sampler for sampler in self._samplers if not sampler.exhausted]
        if left <= 0 or any(len(sampler.asked) < self._quota[sampler.key] for sampler in open_):
            return False
        for number, sampler in enumerate(open_):
            self._quota[sampler.key] += left // len(open_) + (number < left % len(open_))
        return bool(open_)

    def _has_tried_all(self) -> bool:
        most = self._budget.trials
        return most is not None and sum(len(sampler.asked) for sampler in self._samplers) >= most

    def _submit(self, submit: Callable[[], Future[Reply]]) -> Future[Reply]:
        try:
            return submit()
        except DeviceGoneError as error:
            raise Ended(f"The device is gone: {error}", UNFIT) from error
        except Exception as error:
            raise Ended(f"No more can be tried: {type(error).__name__}: {error}.") from error

    def _finish(self, done: set[Future[Reply]]) -> None:
        """Log what ended; where one reply ends the search also what came in beside it."""
        events: list[Result | Again] = []
        end: Ended | None = None
        for future in [future for future in self._flying if future in done]:
            what = self._flying.pop(future)
            try:
                reply = self._reply(future)
            except Ended as error:
                end = error
                continue
            if isinstance(what, Result):
                events += self._timed_again(what, reply)
            elif reply.get("reason") == LOST:
                self._lost.append(self._result(*what, reply))
            else:
                events += [*self._lost, self._result(*what, reply)]
                self._lost.clear()
        if len(self._lost) >= MOST_LOST:
            sentence = self._lost[-1].sentence.rstrip(".")
            end = end or Ended(f"{MOST_LOST} workers were lost, one after the other. {sentence}.")
        elif not self._flying:
            events += self._lost
            self._lost.clear()
        self.trials.add(events)
        if end is not None:
            raise end

    def _reply(self, future: Future[Reply]) -> Reply:
        """Ended where it is nobody's fault who was asked."""
        try:
            reply = future.result()
        except DeviceGoneError as error:
            raise Ended(f"The device is gone: {error}", UNFIT) from error
        except (Exception, CancelledError) as error:  # noqa: BLE001 - executors lose workers in their own ways
            sentence = f"Its worker was lost: {type(error).__name__}: {error}"
            return {"status": "failed", "reason": LOST, "sentence": sentence}
        if reply.get("reason") == "disk_full":
            raise Ended(f"{reply['sentence']}. Make room for compiled code, then --resume.")
        return reply

    def _result(self, sampler: Sampler, number: int, reply: Reply) -> Result:
        choice, elapsed_s = sampler.asked[number], round(self.elapsed_s, 1)
        figures: dict[str, Any] = {
            "launches": [{n: launch[n] for n in FIGURES if n in launch} for launch in reply.get("launches", ())]
        }
        figures |= {name: reply[name] for name in ("by_hand_us", "device_s") if name in reply}
        if reply["status"] not in ("compiled", "measured"):
            return Result(sampler.key, choice, "failed", None, reply["reason"], reply["sentence"][:500], figures,
                          elapsed_s, number)  # fmt: skip
        case = next(p for p in self.problems if problem_key(p) == sampler.key)
        work = self.space.work(case, self.space.made(choice), self.spec.device())
        estimated_us = round(estimate_us(Cost(**reply["cost"]), work, reply["launches"], self.spec), 3)
        if reply["status"] == "compiled":
            return Result(sampler.key, choice, "ranked", estimated_us, "", "", figures, elapsed_s, number)
        figures["estimated_us"] = estimated_us
        return Result(sampler.key, choice, "measured", reply["time_us"], "", "", figures, elapsed_s, number)

    def _request(self, problem: str, choice: Mapping[str, Any]) -> Request:
        return {"op": "compile_choice", "family": self.family, "template": self.space.template, "problem": problem,
                "choice": dict(choice), "device": asdict(self.spec.device())}  # fmt: skip

    def _time_again(self) -> None:
        """Give a GPU that waits for choices those that lead, whose order a single time may not tell."""
        if not isinstance(self._executor, Timing):
            return
        for _ in range(self._executor.spare()):
            result = self._least_sure()
            if result is None:
                return
            self._flying[self._executor.time(self._request(result.problem, result.choice))] = result

    def _least_sure(self) -> Result | None:
        """Of all finalists the one that was timed least often."""
        flying = {(what.problem, what.number) for what in self._flying.values() if isinstance(what, Result)}
        finalists = []
        for sampler in self._samplers:
            ranking = self.trials.ranking(sampler.key)[:FINALISTS]
            near = [r for r in ranking if self.trials.time_us(r) <= NEAR * self.trials.time_us(ranking[0])]
            finalists += [r for r in near if len(near) > 1 and (r.problem, r.number) not in self._refused | flying]
        best = min(finalists, key=self.trials.times, default=None)
        return best if best is not None and self.trials.times(best) < MOST_TIMES else None

    def _timed_again(self, result: Result, reply: Reply) -> list[Again]:
        if reply["status"] != "measured":
            self._refused.add((result.problem, result.number))
            return []
        return [Again(result.problem, result.choice, reply["time_us"], reply["device_s"], round(self.elapsed_s, 1))]

    def _progress(self) -> None:
        """One line, now and then: how many trials, and how the best stands against the choice by hand."""
        if not self.trials.results or self.elapsed_s - self._said < SAY_EVERY_S:
            return
        self._said = self.elapsed_s
        ratios = []
        for sampler, problem in zip(self._samplers, self.problems, strict=True):
            by_hand = self.trials.find(sampler.key, self.by_hand(problem))
            best = self.trials.best(sampler.key)
            if by_hand is not None and by_hand.score_us and best is not None and best.score_us:
                ratios.append(self.trials.time_us(by_hand) / self.trials.time_us(best))
        failed = sum(self.trials.failures().values())
        how = "measured" if self.gpus else "estimated"
        mean = f"; {how} {_geomean(ratios):.2f}x of the choice by hand" if ratios else ""
        busy = f"; GPU busy {self.busy_share():.0%}" if self.gpus else ""
        latest = next(reversed(self.trials.results.values()))
        tried = f"{self.family}/{self.space.what}: {len(self.trials.results)} trials, {failed} failed"
        self.say(f"{tried}{mean}{busy}; last {latest.problem}: {latest.status}")


def _geomean(values: Sequence[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))
