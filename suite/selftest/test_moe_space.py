"""The search spaces of mixtures of experts: by hand is one of their choices, and is written as the hand's kernel."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kernels.device import Device
from kernels.discover import load_problems, load_spaces, problem_key
from kernels.problem import Problem, Tier
from kernels.space import Space
from suite.device.specs import spec_by_key
from suite.generate.specialise import specialised
from suite.generate.table import Point, look_up, table_of
from suite.measure.compile import COMPILING, PROJECT_ROOT
from suite.measure.process import scrubbed_environment
from suite.measure.trial import copy_project

SPACES = {space.template: space for space in load_spaces("moe")}
TIERS, HARD_CASES = load_problems("moe")
GPUS = ("h200", "mi300x")
TINY = (HARD_CASES, TIERS[Tier.SMOKE])

SAME_BITS = """
import json, sys, torch
from dataclasses import replace
from kernels.device import Device
from kernels.discover import load_kernel, load_problem
from suite.measure.interpreter import mend
mend()
device, template = Device(**json.loads(sys.argv[1])), sys.argv[2]
for name in sys.argv[3:]:
    problem = load_problem(name)
    inputs = problem.make_inputs(3, "cpu")
    results = []
    for kernel in (load_kernel(f"moe/{template}"), load_kernel(f"moe/generated/{template}")):
        results.append(kernel.run(inputs, kernel.plan(problem, {}, device)))
    first, second = results
    assert first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first), name
    assert all(value.float().isfinite().all() for value in first.values()), name
print("same")
"""


def able(space: Space, device: Device, *parts: Any) -> list[Problem]:
    return [p for part in parts for p in part if p.task in space.tasks and not p.unsupported_by(device)]


@pytest.mark.parametrize("gpu", GPUS)
@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_by_hand_is_a_choice_that_is_tried(space: Space, gpu: str) -> None:
    device = spec_by_key(gpu).device()
    values = space.values(device)
    for problem in able(space, device, HARD_CASES, *TIERS.values()):
        choice = space.choice_for(problem, device)
        assert space.normal(problem, choice, device) == choice, problem.id
        assert space.why_not(problem, choice, device) is None, problem.id
        assert vars(choice).keys() == values.keys()


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_a_space_leaves_something_to_try_for_every_problem(space: Space) -> None:
    import random

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
@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_written_with_the_choices_by_hand_it_computes_the_same_bits(space: Space, gpu: str, tmp_path: Path) -> None:
    pytest.importorskip("triton", reason="there is no interpreter without it")
    device = spec_by_key(gpu).device()
    problems = able(space, device, *TINY)
    points = [Point(space.facts(p), space.by_hand(p, device), 1.0) for p in able(space, device, *TINY, TIERS[Tier.CI])]
    rows = table_of(points, points[-1].use)
    alike = [p for p in problems if look_up(rows, space.facts(p)) == space.by_hand(p, device)]
    text = specialised(PROJECT_ROOT / "kernels/moe", space, rows, device, f"{space.template}.json")
    if gpu == "mi300x":
        for gone in ("gluon", "hopper", "gdc_wait", "launch_pdl", "device.kind =="):
            assert gone not in text, gone
    linted(text)
    if gpu == "mi300x" and space.template != "triton_router":
        return  # the interpreter runs what the other one has as well
    folder = f"kernels/moe/generated/{space.template}"
    root = copy_project(tmp_path / "tree", {f"{folder}.py": text, f"{folder}.json": json.dumps({"dispatch": rows})})
    few = vars(device) | {"num_sms": 4}
    names = [problem_key(min(alike, key=lambda p: p.field_values()["tokens"]))]
    command = [sys.executable, "-c", SAME_BITS, json.dumps(few), space.template, *names]
    environment = scrubbed_environment(root) | COMPILING | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "same\n"), done.stderr


def linted(text: str) -> None:
    name = str(PROJECT_ROOT / "kernels/moe/generated/written.py")
    for option in (["check", "-"], ["format", "--check", "-"]):
        command = [sys.executable, "-m", "ruff", *option, "--stdin-filename", name]
        done = subprocess.run(command, input=text, cwd=PROJECT_ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
