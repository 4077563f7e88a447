"""Which choice to try next: optuna's tree-structured Parzen estimator, asked and told by hand.

What a space rules out is never tried; what failed is told as pruned, which the estimator takes for worse than all that
ran. Batches are of one size however many workers there are, and are told in the order in which they were asked: the
same seed and the same results give the same choices.
"""

from __future__ import annotations

import hashlib
import random
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from kernels.device import Device
from kernels.problem import Problem
from kernels.space import Space, Value

from ..record.schema import RecordError
from .trials import Result, Trials

ATTEMPTS = 40
"""Choices of the estimator for one that is allowed and new, before plain draws."""
DRAWS = 50_000
"""Plain draws for one, which take microseconds each, before a problem counts as exhausted."""
STARTUP_TRIALS = 10
"""Random ones before the estimator begins."""


class Sampler:
    """The choices of one problem."""

    def __init__(self, space: Space, problem: Problem, key: str, device: Device, seed: int) -> None:
        """`key` is the problem's id in records. RecordError where optuna is not installed."""
        self._space, self._problem, self._device, self.key = space, problem, device, key
        self._values: Mapping[str, Sequence[Value]] = space.values_for(problem, device)
        self._open: dict[str, Any] = {}
        self._hand: dict[str, Value] | None = space.by_hand(problem, device)
        self.ruled_out = 0
        """Draws that the space ruled out, by analysis alone."""
        self.exhausted = False
        digest = hashlib.sha256(f"{seed}:{key}".encode()).digest()
        self._random = random.Random(digest)
        self._study = _study(int.from_bytes(digest[:4], "big"))

    def ask(self, trials: Trials) -> dict[str, Value] | None:
        """A choice that is not ruled out and was not asked for before; None where none is found.

        The first is the one by hand. What the log of an earlier session knows is asked for as well.
        """
        if self._hand is not None:
            choice, self._hand = self._hand, None
            return self._opened(choice)
        for _ in range(ATTEMPTS):
            trial = self._study.ask()
            made = self._space.made(self._suggest(trial))
            choice = asdict(self._space.normal(self._problem, made, self._device))
            if repr(choice) in self._open:
                self._repeat(trial, choice, trials)
            elif self._space.why_not(self._problem, self._space.made(choice), self._device):
                self.ruled_out += 1
                self._fail(trial)
            else:
                self._open[repr(choice)] = trial
                return choice
        return self._drawn()

    def _drawn(self) -> dict[str, Value] | None:
        """One drawn at random, where the estimator proposes little else than what is ruled out or known."""
        for _ in range(DRAWS):
            made = self._space.made({name: self._random.choice(values) for name, values in self._values.items()})
            choice = asdict(self._space.normal(self._problem, made, self._device))
            if repr(choice) in self._open:
                continue
            if self._space.why_not(self._problem, self._space.made(choice), self._device) is None:
                return self._opened(choice)
            self.ruled_out += 1
        self.exhausted = True
        return None

    def _opened(self, choice: dict[str, Value]) -> dict[str, Value]:
        """Have the estimator take this one for its own."""
        self._study.enqueue_trial({n: v for n, v in choice.items() if self._is_choice(n, v)})
        self._open[repr(choice)] = self._study.ask()
        self._suggest(self._open[repr(choice)])
        return choice

    def tell(self, result: Result) -> None:
        """What became of a choice that was asked for."""
        from optuna.trial import TrialState

        trial = self._open[repr(dict(result.choice))]
        if result.score_us is None:
            self._study.tell(trial, state=TrialState.PRUNED)
        else:
            self._study.tell(trial, result.score_us)

    def _is_choice(self, name: str, value: Value) -> bool:
        return len(self._values[name]) > 1 and value in self._values[name]

    def _suggest(self, trial: Any) -> dict[str, Value]:
        return {name: trial.suggest_categorical(name, list(values)) if len(values) > 1 else values[0]
                for name, values in self._values.items()}  # fmt: skip

    def _repeat(self, trial: Any, choice: dict[str, Value], trials: Trials) -> None:
        """The estimator's favourite again: told once more, so that it is drawn less and less surely."""
        known = trials.find(self.key, choice)
        if known is not None and known.score_us is not None:
            self._study.tell(trial, known.score_us)
        else:
            self._fail(trial)

    def _fail(self, trial: Any) -> None:
        from optuna.trial import TrialState

        self._study.tell(trial, state=TrialState.FAIL)


def _study(seed: int) -> Any:
    try:
        import optuna
    except ImportError as error:
        raise RecordError(
            f"`kernelgate generate` needs optuna ({error}): pip install 'kernelgate[generate]'."
        ) from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.TPESampler(
            seed=seed, multivariate=True, constant_liar=True, n_startup_trials=STARTUP_TRIALS
        )
    return optuna.create_study(direction="minimize", sampler=sampler)
