"""The choices of one problem: which are allowed, one at random, and the allowed one that is nearest to a wish.

Of some spaces one draw in two thousand is allowed, so a draw takes microseconds, and a wish is not thrown away because
one of its values is ruled out.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Mapping, Sequence

from kernels.device import Device
from kernels.problem import Problem
from kernels.space import Space, Value

Choice = dict[str, Value]

DRAWS = 50_000
"""Plain draws for one that is allowed and new before a large space counts as exhausted."""
LISTED = 20_000
"""Combinations up to which a space is gone through in a shuffled order, so that its end is known for certain."""


class Choices:
    """Of one problem on one device. All that is drawn follows from `seed` and the calls so far."""

    def __init__(self, space: Space, problem: Problem, device: Device, seed: bytes) -> None:
        self.values: Mapping[str, Sequence[Value]] = space.values_for(problem, device)
        self._known: set[tuple[Value, ...]] = set()
        self._good: list[Choice] = []
        """Of those given out the ones that are allowed: the one by hand may not be."""
        self.ruled_out = 0
        """Draws that the space ruled out, by analysis alone."""
        self._space, self._problem, self._device = space, problem, device
        self._names = list(space.by_hand(problem, device))
        self._free = [name for name in self._names if len(self.values[name]) > 1]
        self._random = random.Random(seed)
        self._rest = self._combinations()

    def give(self, choice: Choice) -> Choice:
        """Remember one as given out."""
        self._known.add(tuple(choice.values()))
        if self.is_allowed(choice):
            self._good.append(choice)
        return choice

    def is_new(self, choice: Choice) -> bool:
        """Whether it was not given out before."""
        return tuple(choice.values()) not in self._known

    def normal(self, choice: Mapping[str, Value]) -> Choice:
        """Of all choices that do the same the one that is tried."""
        made = self._space.normal(self._problem, self._space.made(choice), self._device)
        return {name: getattr(made, name) for name in self._names}

    def is_allowed(self, choice: Choice) -> bool:
        """Whether the space has nothing against it."""
        return self._space.why_not(self._problem, self._space.made(choice), self._device) is None

    def drawn(self) -> Choice | None:
        """One at random that is allowed and new; None where there is none left, or none to be found."""
        first = {name: self.values[name][0] for name in self._names}
        for values in itertools.islice(self._rest, DRAWS):
            choice = self.normal(first | values)
            if not self.is_new(choice):
                continue
            if self.is_allowed(choice):
                return choice
            self.ruled_out += 1
        return None

    def nearest(self, wish: Choice) -> Choice | None:
        """A new one: the wish, or the known one most like it with each of the wish's values that it may have.

        Where that is known as well, one that differs from it in a single value; None where none of these is new.
        """
        near = self._allowed(wish)
        return near if near is None or self.is_new(near) else self._beside(near)

    def _allowed(self, wish: Choice) -> Choice | None:
        wish = self.normal(wish)
        if self.is_allowed(wish):
            return wish
        self.ruled_out += 1
        if not self._good:
            return None
        near = max(self._good, key=lambda known: sum(known[name] == wish[name] for name in self._free))
        for name in self._random.sample(self._free, len(self._free)):
            if near[name] != wish[name]:
                nearer = self.normal({**near, name: wish[name]})
                near = nearer if self.is_allowed(nearer) else near
        return near

    def _beside(self, choice: Choice) -> Choice | None:
        """A new one of those that differ from this one in a single value, in random order."""
        others = [(name, value) for name in self._free for value in self.values[name] if value != choice[name]]
        for name, value in self._random.sample(others, len(others)):
            beside = self.normal({**choice, name: value})
            if self.is_new(beside) and self.is_allowed(beside):
                return beside
        return None

    def _combinations(self) -> Iterator[Choice]:
        """Values of the free fields: each combination once where they are few, without end otherwise."""
        lists = [self.values[name] for name in self._free]
        if math.prod(map(len, lists)) <= LISTED:
            every = list(itertools.product(*lists))
            self._random.shuffle(every)
            yield from (dict(zip(self._free, values, strict=True)) for values in every)
            return
        some = self._random.random  # many times faster than Random.choice
        fields = [(name, values, len(values)) for name, values in zip(self._free, lists, strict=True)]
        while True:
            yield {name: values[int(some() * number)] for name, values, number in fields}
