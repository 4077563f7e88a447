"""Linear layers' search spaces: choices by hand, written kernels, and choices that nobody made by hand."""

from __future__ import annotations

import functools
import json
import random
import subprocess
import sys
from dataclasses import asdict, fields, replace
from typing import Any

import pytest

from kernels.device import Device
from kernels.discover import load_kernel, load_problems, load_spaces, problem_key
from kernels.gemm._stream_k_plan import Tile
from kernels.gemm.problem import Linear, LinearFP8, LinearMX
from kernels.problem import Tier
from suite.device.specs import spec_by_key
from suite.generate.evaluate import evaluate, executor
from suite.generate.specialise import specialised
from suite.generate.table import Point, table_of
from suite.measure.compile import COMPILING, PROJECT_ROOT
from suite.measure.process import scrubbed_environment
from suite.measure.trial import copy_project

SPACES = load_spaces("gemm")
TIERS, HARD_CASES = load_problems("gemm")
PROBLEMS = list(dict.fromkeys([*HARD_CASES, *(p for tier in TIERS.values() for p in tier)]))
H200, MI300X = spec_by_key("h200").device(), spec_by_key("mi300x").device()

RUNS = """
import json, sys, torch
from dataclasses import replace
from kernels.device import Device
from kernels.discover import load_kernel, load_spaces
from kernels.gemm import reference
from kernels.gemm.problem import Linear, LinearFP8, LinearMX
from suite.judge.check import compare
from suite.measure.interpreter import mend
mend()
device = Device(**json.loads(sys.argv[1]))
for name, text, choice in json.loads(sys.argv[2]):
    problem = eval(text)
    inputs = problem.make_inputs(3, "cpu")
    hand = load_kernel("gemm/" + name)
    expected = hand.run(inputs, hand.plan(problem, {}, device))["out"]
    if choice is None:
        written = load_kernel("gemm/generated/written_" + name)
        assert torch.equal(written.run(inputs, written.plan(problem, {}, device))["out"], expected), (name, text)
    else:
        (space,) = (s for s in load_spaces("gemm") if s.template == name)
        out = hand.run(inputs, space.plan_from(problem, space.made(choice), device))["out"]
        expected = reference.run(inputs, problem)["out"]
        fault = compare(out.float(), expected, problem.tolerances()["out"])[1]
        assert fault is None, (name, text, choice, fault)
print("same")
"""


def able(space: Any, device: Device) -> list[Any]:
    return [p for p in PROBLEMS if p.task in space.tasks and not p.unsupported_by(device)]


@functools.cache
def written(space: Any, device: Device) -> tuple[str, str]:
    """(source, manifest) with the choices by hand for all problems."""
    points = [Point(space.facts(p), space.by_hand(p, device), 1.0) for p in able(space, device)]
    rows = table_of(points, space.by_hand(able(space, device)[0], device))
    text = specialised(PROJECT_ROOT / "kernels/gemm", space, rows, device, "written.json")
    return text, json.dumps({"dispatch": rows})


def run_in(folder: Any, root: Any, work: list[Any]) -> None:
    environment = scrubbed_environment(root) | COMPILING | {"TRITON_INTERPRET": "1"}
    device = json.dumps(asdict(H200) | {"num_sms": 8})
    command = [sys.executable, "-c", RUNS, device, json.dumps(work)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "same\n"), done.stderr


@pytest.mark.parametrize("space", SPACES, ids=lambda space: space.template)
@pytest.mark.parametrize("device", [H200, MI300X], ids=lambda device: device.arch)
def test_a_plan_is_what_follows_from_the_choice_by_hand(space: Any, device: Device) -> None:
    assert space.values(device).keys() == {f.name for f in fields(Tile)}
    kernel = load_kernel(f"gemm/{space.template}")
    assert kernel.plan is not None
    for problem in able(space, device):
        assert kernel.plan(problem, {}, device) == space.plan_from(problem, space.choice_for(problem, device), device)


@pytest.mark.parametrize("space", SPACES, ids=lambda space: space.template)
@pytest.mark.parametrize("device", [H200, MI300X], ids=lambda device: device.arch)
def test_enough_is_left_for_every_problem(space: Any, device: Device) -> None:
    """Of the problems that a search is about: one of 20,000 choices at least."""
    values, drawn = space.values(device), random.Random(0)
    choices = [space.made({name: drawn.choice(v) for name, v in values.items()}) for _ in range(20_000)]
    for problem in (p for p in TIERS[Tier.CI] if p in able(space, device)):
        left = sum(space.why_not(problem, choice, device) is None for choice in choices)
        assert left > 0, problem.id
        work = space.work(problem, space.choice_for(problem, device), device)
        assert work.flops_factor >= 1


def test_a_written_kernel_computes_the_bits_of_the_one_by_hand(tmp_path: Any) -> None:
    pytest.importorskip("triton", reason="there is no interpreter without it")
    files: dict[str, str] = {}
    work: list[Any] = []
    for space in SPACES:
        text, manifest = written(space, H200)
        folder = "kernels/gemm/generated"
        files |= {f"{folder}/written_{space.template}.{end}": t for end, t in (("py", text), ("json", manifest))}
        work += [(space.template, repr(p), None) for p in [p for p in HARD_CASES if p in able(space, H200)][:1]]
    run_in(tmp_path, copy_project(tmp_path / "tree", files), work)


def check_layout(text: str) -> None:
    for option in (["check", "-"], ["format", "--check", "-"]):
        name = str(PROJECT_ROOT / "kernels/gemm/generated/written.py")
        command = [sys.executable, "-m", "ruff", *option, "--stdin-filename", name]
        done = subprocess.run(command, input=text, cwd=PROJECT_ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("space", SPACES, ids=lambda space: space.template)
def test_a_written_kernel_reads_well(space: Any) -> None:
    text = written(space, H200)[0]
    assert "dependent_launch" not in text.partition("def _combine")[0]
    check_layout(text)


def test_one_choice_for_all_leaves_no_table_and_one_way_to_load() -> None:
    use = asdict(Tile(128, 128, 64, num_warps=8, num_stages=6, combine="arrival"))
    text = specialised(PROJECT_ROOT / "kernels/gemm", SPACES[0], [{"when": {}, "use": use}], H200, "x.json")
    for gone in ("json", "_matches", "class Tile", "BLOCK_K: tl.constexpr", "x.load(", "_multiply_sliced", "EVICTION"):
        assert gone not in text.partition('"""\n\n')[2], gone
    assert "tl.arange(0, 128)" in text
    check_layout(text)


TMA = Tile(64, 64, 32, num_warps=4, num_stages=3, tma=True)
FP8 = Tile(64, 64, 128, num_warps=4, num_stages=3)
MX = Tile(16, 32, 128, num_warps=4, num_stages=3, wide=True)
OTHERS = [
    ("triton_stream_k", Linear(70, 136, 208), replace(TMA, combine="together")),
    ("triton_stream_k", Linear(70, 136, 208), replace(TMA, token_rows=True)),
    ("triton_stream_k", Linear(70, 136, 201), replace(TMA, token_rows=True, combine="second")),
    ("triton_fp8", LinearFP8(70, 136, 1024), replace(FP8, tma=True, token_rows=True, unroll=4)),
    ("triton_fp8", LinearFP8(70, 136, 400), replace(FP8, unroll=2)),
    ("triton_fp8", LinearFP8(70, 136, 400, scaling="row"), replace(FP8, tma=True, unroll=4)),
    ("triton_mx", LinearMX(16, 40, 512, w_format="mxfp6_e2m3"), replace(MX, unpack="paired", deals_x=True)),
    ("triton_mx", LinearMX(16, 40, 352, w_format="mxfp6_e3m2"), replace(MX, block_k=256)),
    ("triton_mx", LinearMX(16, 40, 512), replace(MX, block_k=256, unpack="paired")),
]
"""Choices that nobody makes by hand, where tiles are split and where they are not."""


def test_other_choices_compute_the_same(tmp_path: Any) -> None:
    pytest.importorskip("triton", reason="there is no interpreter without it")
    run_in(tmp_path, PROJECT_ROOT, [(name, repr(p), asdict(tile)) for name, p, tile in OTHERS])


@pytest.mark.parametrize(
    ("template", "problem", "choice", "function"),
    [
        ("triton_stream_k", Linear(128, 8192, 8192), Tile(128, 128, 64, 8, 6, combine="together", tma=True), "_linear"),
        ("triton_fp8", LinearFP8(64, 7168, 2048), Tile(64, 64, 128, 4, 3, tma=True, unroll=2), "_linear_fp8"),
    ],
    ids=["together", "unrolled"],
)
def test_what_descriptors_load_feeds_wgmma(template: str, problem: Any, choice: Tile, function: str) -> None:
    pytest.importorskip("triton", reason="there is no compiler without it")
    request = {"op": "compile_choice", "family": "gemm", "template": template, "problem": problem_key(problem)}
    with executor(1) as threads:
        reply = threads.submit(evaluate, request | {"choice": asdict(choice), "device": asdict(H200)}).result()
    assert (reply["status"], reply.get("sentence")) == ("compiled", None)
    (launch,) = reply["launches"]
    assert launch["function"] == function
    assert launch["matrix_instructions"]["wgmma"] > 0
    assert launch["spilled_registers"] == 0
