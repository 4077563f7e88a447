"""Linear layers' search spaces: choices by hand, written kernels, and choices that nobody made by hand."""

from __future__ import annotations

import random
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
from suite.measure.compile import PROJECT_ROOT
from suite.measure.trial import copy_project
from suite.selftest.written_files import SAME_BITS, able, check_layout, interpreted, written

pytestmark = pytest.mark.side_by_side

SPACES = load_spaces("gemm")
TIERS, HARD_CASES = load_problems("gemm")
PROBLEMS = list(dict.fromkeys([*HARD_CASES, *(p for tier in TIERS.values() for p in tier)]))
H200, MI300X = spec_by_key("h200").device(), spec_by_key("mi300x").device()

RIGHT = """
import json, sys
from kernels.device import Device
from kernels.discover import load_kernel, load_spaces
from kernels.gemm import reference
from kernels.gemm.problem import Linear, LinearFP8, LinearMX
from suite.judge.check import compare
from suite.measure.interpreter import mend
mend()
device, work = json.loads(sys.argv.pop(1))
device, spaces = Device(**device), {space.template: space for space in load_spaces("gemm")}
for name, text, choice in work:
    problem, space = eval(text), spaces[name]
    inputs = problem.make_inputs(3, "cpu")
    out = load_kernel("gemm/" + name).run(inputs, space.plan_from(problem, space.made(choice), device))["out"]
    expected = reference.run(inputs, problem)["out"]
    fault = compare(out.float(), expected, problem.tolerances()["out"])[1]
    assert fault is None, (name, text, choice, fault)
"""


@pytest.mark.parametrize("space", SPACES, ids=lambda space: space.template)
@pytest.mark.parametrize("device", [H200, MI300X], ids=lambda device: device.arch)
def test_a_plan_is_what_follows_from_the_choice_by_hand(space: Any, device: Device) -> None:
    assert space.values(device).keys() == {f.name for f in fields(Tile)}
    kernel = load_kernel(f"gemm/{space.template}")
    assert kernel.plan is not None
    for problem in able(space, device, PROBLEMS):
        assert kernel.plan(problem, {}, device) == space.plan_from(problem, space.choice_for(problem, device), device)


@pytest.mark.parametrize("space", SPACES, ids=lambda space: space.template)
@pytest.mark.parametrize("device", [H200, MI300X], ids=lambda device: device.arch)
def test_enough_is_left_for_every_problem(space: Any, device: Device) -> None:
    """Of the problems that a search is about: one of 20,000 choices at least."""
    values = space.values(device)
    for problem in able(space, device, TIERS[Tier.CI]):
        drawn = random.Random(0)
        choices = (space.made({name: drawn.choice(v) for name, v in values.items()}) for _ in range(20_000))
        assert any(space.why_not(problem, choice, device) is None for choice in choices), problem.id
        work = space.work(problem, space.choice_for(problem, device), device)
        assert work.flops_factor >= 1


@pytest.mark.parametrize("space", SPACES, ids=lambda space: space.template)
def test_a_written_kernel_reads_well(space: Any) -> None:
    text = written(f"gemm/{space.template}", "h200", hard_cases=True).text
    assert "dependent_launch" not in text.partition("def _combine")[0]
    check_layout(text, "gemm")


def test_one_choice_for_all_leaves_no_table_and_one_way_to_load() -> None:
    use = asdict(Tile(128, 128, 64, num_warps=8, num_stages=6, combine="arrival"))
    text = specialised(PROJECT_ROOT / "kernels/gemm", SPACES[0], [{"when": {}, "use": use}], H200, "x.json")
    for gone in ("json", "_matches", "class Tile", "BLOCK_K: tl.constexpr", "x.load(", "_multiply_sliced", "EVICTION"):
        assert gone not in text.partition('"""\n\n')[2], gone
    assert "tl.arange(0, 128)" in text
    check_layout(text, "gemm")


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


def test_written_kernels_compute_the_bits_of_those_by_hand_and_other_choices_what_is_right(tmp_path: Any) -> None:
    pytest.importorskip("triton", reason="there is no interpreter without it")
    files: dict[str, str] = {}
    work = []
    for space in SPACES:
        file = written(f"gemm/{space.template}", "h200", hard_cases=True)
        files |= file.files
        work.append(file.beside_the_hand(able(space, H200, HARD_CASES)[0], 8))
    others = [(name, repr(problem), asdict(tile)) for name, problem, tile in OTHERS]
    scripts = {SAME_BITS: work, RIGHT: (asdict(H200) | {"num_sms": 8}, others)}
    interpreted(scripts, tmp_path, copy_project(tmp_path / "tree", files))


FED = [
    ("triton_stream_k", Linear(128, 8192, 8192), Tile(128, 128, 64, 8, 6, combine="together", tma=True), "_linear"),
    ("triton_fp8", LinearFP8(64, 7168, 2048), Tile(64, 64, 128, 4, 3, tma=True, unroll=2), "_linear_fp8"),
]
"""Tiles that are summed together, and a loop that is unrolled."""


def test_what_descriptors_load_feeds_wgmma() -> None:
    pytest.importorskip("triton", reason="there is no compiler without it")
    with executor(1) as threads:
        for template, problem, choice, function in FED:
            request = {"op": "compile_choice", "family": "gemm", "template": template, "problem": problem_key(problem),
                       "choice": asdict(choice), "device": asdict(H200)}  # fmt: skip
            reply = threads.submit(evaluate, request).result()
            assert (reply["status"], reply.get("sentence")) == ("compiled", None), template
            (launch,) = reply["launches"]
            assert launch["function"] == function
            assert launch["matrix_instructions"]["wgmma"] > 0
            assert launch["spilled_registers"] == 0
