"""Attention's spaces: the choices by hand are in them, and files written with these are whole."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

from kernels.discover import load_problems, load_spaces
from kernels.problem import Tier
from suite.device.specs import spec_by_key
from suite.generate.specialise import specialised
from suite.generate.table import Point, table_of
from suite.measure.compile import PROJECT_ROOT

SPACES = {space.template: space for space in load_spaces("attention")}
PLACES = [(name, key) for name, space in SPACES.items() for key in ("h200", "mi300x")
          if space.arch in ("", spec_by_key(key).device().arch)]  # fmt: skip
ALLOWED = {"kernel", "problem", "device", "lengths", "prefill_triton_flash"}
"""Of the project's modules; the last stands in for Gluon where the interpreter runs."""
GONE = {
    ("decode_split_kv", "mi300x"): ("gdc_wait", "launch_pdl", "dependent"),
    ("decode_split_kv", "h200"): ("waves_per_eu",),
    ("prefill_triton_flash", "mi300x"): ("TensorDescriptor", "TMA:"),
    ("prefill_triton_flash", "h200"): ("waves_per_eu", "KV_HEADS_FASTEST", "cache_mib"),
    ("prefill_gluon_hopper", "h200"): ("ROPE:", "LATE_ROUNDING", "q_rope =", "prefill_items import"),
}


@pytest.mark.parametrize(("template", "key"), PLACES)
def test_the_choice_by_hand_is_one_of_the_space(template: str, key: str) -> None:
    space, device = SPACES[template], spec_by_key(key).device()
    values = space.values(device)
    for problem in load_problems("attention")[0][Tier.CI]:
        if problem.task in space.tasks and not problem.unsupported_by(device):
            chosen = space.by_hand(problem, device)
            assert {name for name, value in chosen.items() if value not in values[name]} == set(), problem.id
            assert space.work(problem, space.made(chosen), device).flops_factor >= 1


@pytest.mark.parametrize(("template", "key"), PLACES)
def test_a_file_with_the_choices_by_hand_is_whole_and_holds_nothing_dead(template: str, key: str) -> None:
    space, device = SPACES[template], spec_by_key(key).device()
    able = [p for p in load_problems("attention")[0][Tier.CI]
            if p.task in space.tasks and not p.unsupported_by(device)]  # fmt: skip
    points = [Point(space.facts(p), space.by_hand(p, device), 1.0) for p in able]
    rows = table_of(points, space.by_hand(able[0], device))
    text = specialised(PROJECT_ROOT / "kernels/attention", space, rows, device, "written.json")
    for gone in GONE[template, key]:
        assert gone not in text.partition('"""\n\n')[2], gone
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.level:
            assert node.module in ALLOWED
    name = str(PROJECT_ROOT / "kernels/attention/generated/written.py")
    command = [sys.executable, "-m", "ruff", "check", "--stdin-filename", name, "-"]
    done = subprocess.run(command, input=text, cwd=PROJECT_ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
