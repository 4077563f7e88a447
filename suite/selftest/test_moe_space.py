"""The search spaces of mixtures of experts: by hand is one of their choices, and is written as the hand's kernel."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from kernels.discover import load_problems, load_spaces
from kernels.problem import Tier
from kernels.space import Space
from suite.device.specs import spec_by_key
from suite.generate.table import look_up
from suite.measure.trial import copy_project
from suite.selftest.written_files import GPUS, SAME_BITS, able, check_layout, interpreted, written

pytestmark = pytest.mark.side_by_side

SPACES = {space.template: space for space in load_spaces("moe")}
TIERS, HARD_CASES = load_problems("moe")
TINY = [*HARD_CASES, *TIERS[Tier.SMOKE]]


@pytest.mark.parametrize("gpu", GPUS)
@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_by_hand_is_a_choice_that_is_tried(space: Space, gpu: str) -> None:
    device = spec_by_key(gpu).device()
    values = space.values(device)
    for problem in able(space, device, [*HARD_CASES, *(p for tier in TIERS.values() for p in tier)]):
        choice = space.choice_for(problem, device)
        assert space.normal(problem, choice, device) == choice, problem.id
        assert space.why_not(problem, choice, device) is None, problem.id
        assert vars(choice).keys() == values.keys()


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_a_space_leaves_something_to_try_for_every_problem(space: Space) -> None:
    draw, device = random.Random(0), spec_by_key("h200").device()
    values = space.values(device)
    for problem in able(space, device, TIERS[Tier.CI]):
        tried = set()
        for _ in range(400):
            drawn = space.made({name: draw.choice(options) for name, options in values.items()})
            choice = space.normal(problem, drawn, device)
            assert space.normal(problem, choice, device) == choice
            if space.why_not(problem, choice, device) is None:
                space.plan_from(problem, choice, device)
                assert space.work(problem, choice, device).flops_factor >= 1.0
                tried.add(choice)
        assert len(tried) >= 8, problem.id


@pytest.mark.parametrize("gpu", GPUS)
@pytest.mark.parametrize("template", SPACES)
def test_written_with_the_choices_by_hand_it_reads_well(template: str, gpu: str) -> None:
    text = written(f"moe/{template}", gpu, hard_cases=True).text
    if gpu == "mi300x":
        for gone in ("gluon", "hopper", "gdc_wait", "launch_pdl", "device.kind =="):
            assert gone not in text, gone
    check_layout(text, "moe")


def test_written_with_the_choices_by_hand_it_computes_the_same_bits(tmp_path: Path) -> None:
    """Of the experts one is enough: the interpreter runs what the other one has as well."""
    pytest.importorskip("triton", reason="there is no interpreter without it")
    files: dict[str, str] = {}
    work = []
    for template, gpu in (("triton_router", "h200"), ("triton_router", "mi300x"), ("triton_experts", "h200")):
        file, space = written(f"moe/{template}", gpu, hard_cases=True), SPACES[template]
        alike = [p for p in able(space, file.device, TINY)
                 if look_up(file.rows, space.facts(p)) == space.by_hand(p, file.device)]  # fmt: skip
        files |= file.files
        work.append(file.beside_the_hand(min(alike, key=lambda p: p.field_values()["tokens"]), 4))
    interpreted({SAME_BITS: work}, tmp_path, copy_project(tmp_path / "tree", files))
