"""Which choice to try next: optuna's tree-structured Parzen estimator, asked and told by hand.

The estimator knows no constraints. What it wishes for is replaced by the nearest choice that the space allows, and it
is told of that one. What failed is told as pruned, which it takes for worse than all that ran. The same seed, and the
same results told between the same asks, give the same choices.
"""

from __future__ import annotations

import hashlib
import warnings
from typing import Any

from kernels.device import Device
from kernels.problem import Problem
from kernels.space import Space

from ..record.schema import RecordError
from .choices import Choice, Choices
from .trials import Result

STARTUP_TRIALS = 10
"""Plain draws before the estimator is asked."""
PLAIN = 16
"""Every so manieth choice is a plain draw even then: what is known is where wishes are moved to."""


class Sampler:
    """The choices of one problem, one after the other."""

    def __init__(self, space: Space, problem: Problem, key: str, device: Device, seed: int) -> None:
        """`key` is the problem's id in records. RecordError where optuna is not installed."""
        digest = hashlib.sha256(f"{seed}:{key}".encode()).digest()
        self.key = key
        self.asked: list[Choice] = []
        """In order."""
        self.told = 0
        """Of these, how many the estimator has been told of."""
        self.exhausted = False
        self._choices = Choices(space, problem, device, digest)
        self._hand: Choice = space.by_hand(problem, device)
        self._study = _study(int.from_bytes(digest[:4], "big"))
        self._distributions = _distributions(self._choices)
        self._open: list[Any] = []

    @property
    def ruled_out(self) -> int:
        """Draws and wishes that the space ruled out, by analysis alone."""
        return self._choices.ruled_out

    def ask(self) -> Choice | None:
        """A choice that is not ruled out and was not asked for before; None where none is found.

        The first is the one by hand.
        """
        choice, trial = self._next()
        if choice is None:
            self.exhausted = True
            return None
        self.asked.append(self._choices.give(choice))
        self._open.append(trial or self._trial_of(choice))
        return choice

    def tell(self, result: Result) -> None:
        """What became of the earliest choice that was asked for and not told of."""
        assert dict(result.choice) == self.asked[self.told], "results are told in the order of asking"
        trial, self._open[self.told] = self._open[self.told], None
        self.told += 1
        if result.score_us is None:
            self._study.tell(trial, state=_state("PRUNED"))
        else:
            self._study.tell(trial, result.score_us)

    def _next(self) -> tuple[Choice | None, Any]:
        """A choice, and the estimator's own trial where it is exactly what it wished for."""
        number = len(self.asked)
        if number == 0:
            return self._hand, None
        if number > STARTUP_TRIALS and number % PLAIN:
            trial = self._study.ask(self._distributions)
            wish = {name: values[0] for name, values in self._choices.values.items()} | trial.params
            choice = self._choices.nearest(wish)
            if choice is not None and all(choice[name] == value for name, value in trial.params.items()):
                return choice, trial
            self._study.tell(trial, state=_state("FAIL"))  # the estimator forgets it
            if choice is not None:
                return choice, None
        return self._choices.drawn(), None

    def _trial_of(self, choice: Choice) -> Any:
        """Have the estimator take this one for its own."""
        self._study.enqueue_trial({n: choice[n] for n, d in self._distributions.items() if choice[n] in d.choices})
        return self._study.ask(self._distributions)


def _distributions(choices: Choices) -> dict[str, Any]:
    from optuna.distributions import CategoricalDistribution

    return {n: CategoricalDistribution(tuple(values)) for n, values in choices.values.items() if len(values) > 1}


def _state(name: str) -> Any:
    from optuna.trial import TrialState

    return TrialState[name]


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
