"""Which choices of a problem are given out: allowed ones, each once, until none is left."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import pytest

from kernels.discover import load_problems, load_spaces, problem_key
from kernels.problem import Tier
from kernels.space import Space
from suite.device.specs import spec_by_key
from suite.generate.choices import Choices
from suite.generate.sampler import Sampler
from suite.generate.trials import Result

DEVICE = spec_by_key("h200").device()
(MLA,) = load_spaces("mla")
PROBLEM: Any = None


@dataclass(frozen=True)
class Point:
    """x and y are free, z follows."""

    x: int
    y: int
    z: int = 0


def by_hand(problem: Any, device: Any) -> Point:
    return Point(9, 9, 9)  # what `why_not` rules out


def no_plan(problem: Any, choice: Point, device: Any) -> None:
    return None


def no_facts(problem: Any) -> dict[str, int]:
    return {}


SQUARE = Space(
    template="t", what="w", about="", choice=Point, choice_for=by_hand, plan_from=no_plan, facts=no_facts, tasks=(),
    values=lambda device: {"x": tuple(range(10)), "y": tuple(range(10)), "z": (0, 1)},
    why_not=lambda problem, choice, device: "too far" if choice.x + choice.y > 9 else None,
    normal=lambda problem, choice, device: replace(choice, z=choice.x % 2),
)  # fmt: skip
ALLOWED = {(x, y, x % 2) for x, y in product(range(10), repeat=2) if x + y <= 9}


def test_a_small_space_is_given_out_to_its_end():
    choices = Choices(SQUARE, PROBLEM, DEVICE, b"0")
    drawn = []
    while (choice := choices.drawn()) is not None:
        drawn.append(tuple(choices.give(choice).values()))
    assert len(drawn) == len(set(drawn))
    assert set(drawn) == ALLOWED


def test_the_nearest_is_allowed_new_and_takes_over_what_it_may():
    choices = Choices(SQUARE, PROBLEM, DEVICE, b"0")
    choices.give(by_hand(PROBLEM, DEVICE).__dict__)
    assert choices.nearest({"x": 7, "y": 7, "z": 0}) is None, "no allowed one is known to start from"
    choices.give({"x": 7, "y": 0, "z": 1})
    near = choices.nearest({"x": 7, "y": 9, "z": 0})
    assert near is not None
    assert tuple(near.values()) in ALLOWED
    assert choices.is_new(near)
    assert choices.nearest({"x": 3, "y": 4, "z": 0}) == {"x": 3, "y": 4, "z": 1}, "a wish that is allowed is taken"


@pytest.mark.parametrize("seed", range(3))
def test_a_sampler_gives_every_choice_once_and_ends(seed):
    pytest.importorskip("optuna", reason="the extra `generate` brings it")
    sampler = Sampler(SQUARE, PROBLEM, "p", DEVICE, seed)
    while (choice := sampler.ask()) is not None:
        sampler.tell(Result("p", choice, "measured", 1.0 + abs(float(choice["x"]) - 4)))
    given = Counter(tuple(choice.values()) for choice in sampler.asked)
    assert set(given) == ALLOWED | {(9, 9, 9)}
    assert set(given.values()) == {1}
    assert sampler.exhausted


def test_a_sampler_finds_better_choices_than_plain_draws():
    """Of as many choices, in the median of a few seeds."""
    pytest.importorskip("optuna", reason="the extra `generate` brings it")
    wanted = {"block_h": 64, "block_n": 32, "num_warps": 8, "num_stages": 2, "programs_per_sm": 2, "min_tokens": 512}

    def time_us(choice: Any) -> float:
        return 10.0 + [choice[name] == value for name, value in wanted.items()].count(False)

    problem = next(p for p in load_problems("mla")[0][Tier.CI] if p.field_values()["num_heads"] == 128)
    found, drawn = [], []
    for seed in range(5):
        sampler = Sampler(MLA, problem, problem_key(problem), DEVICE, seed)
        choices = Choices(MLA, problem, DEVICE, bytes([seed]))
        plain = []
        for _ in range(50):
            choice = sampler.ask()
            assert choice is not None
            sampler.tell(Result(sampler.key, choice, "measured", time_us(choice)))
            plain.append(choices.drawn())
        found.append(min(time_us(choice) for choice in sampler.asked))
        drawn.append(min(time_us(choice) for choice in plain))
    assert sorted(found)[2] < sorted(drawn)[2], (found, drawn)


def test_a_choice_costs_milliseconds_where_few_are_allowed():
    """In the space of linear layers one draw in two thousand is allowed; each choice took 0.2 s and more."""
    pytest.importorskip("optuna", reason="the extra `generate` brings it")
    space = next(space for space in load_spaces("gemm") if space.what == "linear")
    problem = next(p for p in load_problems("gemm")[0][Tier.CI] if p.task == "linear")
    sampler = Sampler(space, problem, problem_key(problem), DEVICE, 0)
    begun = time.process_time()
    for number in range(40):
        choice = sampler.ask()
        assert choice is not None
        sampler.tell(Result(sampler.key, choice, "measured", 1.0 + number))
    assert (time.process_time() - begun) / 40 < 0.1
