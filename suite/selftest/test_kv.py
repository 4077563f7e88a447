"""The kv family: mutants are rejected, problems are what they say they are, properties are true."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kernels.device import Device
from kernels.discover import load_problems
from kernels.kv import _plan, reference
from kernels.kv._append_problem import Append
from kernels.kv._gather_problem import Gather
from kernels.kv._mla_append_problem import MLAAppend
from kernels.kv._null_kernels import rows_left
from kernels.kv._rope_append_problem import RopeAppend
from kernels.kv._rope_problem import Rope
from kernels.kv.properties import PROPERTIES
from kernels.problem import Outputs, Residency, Tier, Tolerance
from kernels.property import derive
from suite.judge.check import compare, expected_outputs
from suite.measure.interpreter import e4m3_bits

pytestmark = pytest.mark.side_by_side

ROOT = Path(__file__).parents[2]
CPU = Device("cpu", "x86_64", 2, 0, 1, None)
H200 = Device("cuda", "sm_90", 132, 232448, 32, "float8_e4m3fn")
TIERS, HARD_CASES = load_problems("kv")
SMALL: dict[str, Any] = {"seqs": 3, "lengths": "skewed", "context": 5, "padding": 2, "page_size": 4}
FP8 = "float8_e4m3fn"
APPENDS: dict[str, Any] = {
    "rope_append": RopeAppend(11, **SMALL, num_pages=12, num_heads=4, num_kv_heads=2, head_dim=16, rotary_dim=16),
    "rope_append_fp8": RopeAppend(
        11, **SMALL, num_pages=12, num_heads=4, num_kv_heads=2, head_dim=16, rotary_dim=8, is_neox=False,
        cache_dtype=FP8, k_scale=0.021, v_scale=0.017,
    ),
    "append": Append(11, **SMALL, num_pages=12, num_kv_heads=2, head_dim=16),
    "append_fnuz": Append(
        11, **SMALL, num_pages=12, num_kv_heads=2, head_dim=16,
        cache_dtype="float8_e4m3fnuz", k_scale=0.021, v_scale=0.017,
    ),
    "mla_append": MLAAppend(11, **SMALL, num_pages=12, num_heads=3),
}  # fmt: skip


HUGE_CACHES = """
import os, torch
from suite.measure.interpreter import mend
mend()
from kernels.device import Device
from kernels.discover import load_kernel
from kernels.kv._append_problem import Append
from kernels.kv._gather_problem import Gather
from kernels.kv._mla_append_problem import MLAAppend
from kernels.kv._null_kernels import rows_left
from kernels.updates import taken_updates

H200 = Device("cuda", "sm_90", 132, 232448, 32, "float8_e4m3fn")
FP8 = {"cache_dtype": "float8_e4m3fn", "page_size": 64}
for name, problem, width in (
    ("rope_append", Append(3, 1, context=62, num_pages=9, num_kv_heads=4, head_dim=32, **FP8), 128),
    ("mla_append", MLAAppend(3, 1, context=62, num_pages=9, num_heads=2, **FP8), 576),
    ("gather", Gather(2, 3, num_pages=9, num_kv_heads=1, head_dim=72, **FP8), 72),
):
    kernel = load_kernel(f"kv/triton_{name}")
    inputs, pages = problem.make_inputs(5, "cpu"), 2**31 // (64 * width) + 9  # never touched but for the last pages
    caches = {n: t for n, t in inputs.items() if "cache" in n and t.dtype == torch.float8_e4m3fn}
    for cache_name, cache in caches.items():
        huge = torch.empty((pages, *cache.shape[1:]), dtype=cache.dtype)
        huge.view(torch.uint8)[-9:] = cache.view(torch.uint8)
        inputs[cache_name] = huge
    for index, step in (("slot_mapping", (pages - 9) * 64), ("block_table", pages - 9)):
        if index in inputs:
            inputs[index] += step
    outputs = kernel.run(inputs, kernel.plan(problem, {n: inputs[n] for n in problem.plan_inputs}, H200))
    outputs |= taken_updates(problem, inputs)
    for output, expected in rows_left(inputs, problem).items():
        torch.testing.assert_close(outputs[output].float(), expected.float(), rtol=2**-3, atol=2**-7)
"""


def test_the_kernels_reach_past_2_to_the_31(tmp_path: Path) -> None:
    """In the interpreter, whose 32-bit numbers wrap around as a GPU's do, on memory that is mostly never touched."""
    pytest.importorskip("triton")
    script = tmp_path / "huge.py"
    script.write_text(HUGE_CACHES)
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_edited_angles_show() -> None:
    for problem in (APPENDS["rope_append"], APPENDS["mla_append"], Rope(9, 2, 1)):
        inputs = problem.make_inputs(5, "cpu")
        kept = expected_outputs(problem, inputs)["q_out"]
        for edit in problem.edits(inputs, torch.Generator().manual_seed(1)):
            edit.apply(inputs)
        fault = compare(expected_outputs(problem, inputs)["q_out"], kept, problem.tolerances()["q_out"])[1]
        assert fault is not None


def test_edited_tokens_show() -> None:
    problem = Gather(batch=3, seq_len=9, lengths="empties", num_pages=40)
    inputs = problem.make_inputs(5, "cpu")
    kept = expected_outputs(problem, inputs)["out"]
    for edit in problem.edits(inputs, torch.Generator().manual_seed(1)):
        edit.apply(inputs)
    assert (expected_outputs(problem, inputs)["out"] != kept).flatten(1).any(1).sum() >= 2


def mutants(problem: Any) -> Iterator[tuple[str, Outputs]]:
    """Small faults of a whole family of kernels, as the outputs that they would leave."""
    inputs = problem.make_inputs(7, "cpu")
    right = rows_left(inputs, problem)
    if "positions" in inputs:
        table = inputs["cos_sin_cache"]
        yield "next position", rows_left({**inputs, "positions": (inputs["positions"] - 1).clamp_min(0)}, problem)
        yield "other style", rows_left(inputs, replace(problem, is_neox=not problem.is_neox))
        yield (
            "sine and cosine exchanged",
            rows_left({**inputs, "cos_sin_cache": table.roll(table.shape[1] // 2, 1)}, problem),
        )
        coarse = table.to(torch.float8_e4m3fn).to(table.dtype)
        yield "angles in fp8", rows_left({**inputs, "cos_sin_cache": coarse}, problem)
        yield "heads exchanged", {**right, "q_out": right["q_out"].flip(1)}
    for name in ("k_scale", "v_scale", "kv_scale"):
        if hasattr(problem, name) and problem.is_fp8:
            yield f"{name} ignored", rows_left(inputs, replace(problem, **{name: 1.0}))
            yield f"{name} inverted", rows_left(inputs, replace(problem, **{name: 1 / getattr(problem, name)}))
    if isinstance(problem, Gather):
        table = inputs["block_table"]
        yield "a page on", rows_left({**inputs, "block_table": table.roll(1, 1)}, problem)
        yield "tables exchanged", rows_left({**inputs, "block_table": table.roll(1, 0)}, problem)
    else:
        name = next(reversed(right))
        yield "a row of another token", {**right, name: torch.cat((right[name][1:2], right[name][1:]))}


MUTATED = {
    **APPENDS,
    "rope": Rope(13, num_heads=2, num_kv_heads=1, head_dim=32, rotary_dim=32),
    "gather": Gather(batch=4, seq_len=9, lengths="skewed", page_size=4, num_kv_heads=1, head_dim=8),
    "gather_fp8": Gather(4, 9, "empties", page_size=4, num_kv_heads=1, head_dim=8, cache_dtype=FP8, kv_scale=0.021),
}


@pytest.mark.parametrize("key", MUTATED)
def test_mutants_are_rejected(key: str) -> None:
    problem = MUTATED[key]
    expected, found = expected_outputs(problem, problem.make_inputs(7, "cpu")), 0
    for mutant, outputs in mutants(problem):
        tolerances = problem.tolerances().items()
        assert any(compare(outputs[name].float(), expected[name], t)[1] for name, t in tolerances), mutant
        found += 1
    assert found >= 1


def test_saturation_shows_in_the_wide_distribution() -> None:
    """A kernel that lets large values become NaN, as PyTorch's conversion does, must meet some."""
    problem = APPENDS["rope_append_fp8"]
    stored = expected_outputs(problem, problem.make_inputs(7, "cpu", "wide"))["k_cache"]
    assert (stored.abs() == torch.finfo(torch.float8_e4m3fn).max).any()
    assert not stored.isnan().any()


def test_a_rotation_in_the_libraries_precision_is_accepted() -> None:
    """Products and their difference rounded to bf16; turned keys rounded to bf16 before they become fp8."""
    problem = RopeAppend(32, 4, num_pages=32, num_heads=8, cache_dtype=FP8, k_scale=0.021, v_scale=0.017)
    inputs = problem.make_inputs(7, "cpu", "wide")
    expected = expected_outputs(problem, inputs)
    cos, sin = inputs["cos_sin_cache"][inputs["positions"]][:, None].chunk(2, -1)

    def turned(x: torch.Tensor) -> torch.Tensor:
        a, b = x.float().chunk(2, -1)
        products = [(u * v).bfloat16() for u, v in ((a, cos), (b, sin), (b, cos), (a, sin))]
        return torch.cat((products[0] - products[1], products[2] + products[3]), -1)

    k = reference.stored(turned(inputs["k"]), problem.k_scale, torch.float8_e4m3fn).float().flatten(0, 1)
    for name, actual in (("q_out", turned(inputs["q"]).float()), ("k_cache", k)):
        assert compare(actual, expected[name], problem.tolerances()[name])[1] is None


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e4m3fnuz])
def test_the_interpreters_rounding_to_e4m3_is_torchs(dtype: torch.dtype) -> None:
    every = torch.arange(256, dtype=torch.uint8).view(dtype).float()
    every = every[every.isfinite()].sort().values.unique()
    ties, random = (every[1:] + every[:-1]) / 2, torch.randn(10_000) * 10.0 ** torch.randint(-5, 3, (10_000,))
    values = torch.cat((every, ties, random, torch.tensor([0.0, -0.0, 1e6, -1e6])))
    largest = torch.finfo(dtype).max
    expected = values.clamp(-largest, largest).to(dtype).view(torch.uint8).numpy()
    assert (e4m3_bits(values.numpy(), dtype == torch.float8_e4m3fnuz) == expected).all()


def test_lengths_and_slots_are_what_the_problem_says() -> None:
    for problem in {p for tier in TIERS.values() for p in tier} | set(HARD_CASES):
        if isinstance(problem, Gather):
            assert problem.tokens == sum(problem.seq_lens()) > 0
        elif not isinstance(problem, Rope):
            assert isinstance(problem, RopeAppend | Append | MLAAppend)
            sequences = problem._sequences()
            assert sum(new for _, new in sequences) == problem.tokens
            assert min(new for _, new in sequences) >= 1
            assert abs(sum(context for context, _ in sequences) / problem.seqs - problem.context) <= 0.5


def test_huge_caches_are_written_where_32_bits_do_not_reach() -> None:
    huge = [p for tier in (Tier.CI, Tier.FULL) for p in TIERS[tier] if "np139264" in p.id or "np247808" in p.id]
    assert {p.task for p in huge} == {"rope_append", "append", "mla_append", "gather"}
    assert any(p in TIERS[Tier.CI] for p in huge)
    for problem in huge:
        if not isinstance(problem, Gather):
            assert isinstance(problem, RopeAppend | Append | MLAAppend)
            last = problem.num_pages * problem.page_size * math.prod(problem.row_shape)
            first = problem.first_page * problem.page_size * math.prod(problem.row_shape)
            assert first < 2**31 < last  # on both sides
    assert all(p.memory_bytes() <= 24 * 10**9 for p in TIERS[Tier.CI])


@pytest.mark.parametrize("key", MUTATED)
def test_costs_and_memory_are_those_of_the_tensors(key: str) -> None:
    problem = MUTATED[key]
    inputs = problem.make_inputs(7, "cpu")
    specs = problem.output_specs().values()
    output_bytes = sum(math.prod(s.shape) * getattr(torch, s.dtype).itemsize for s in specs)
    cost = problem.cost(inputs)
    assert cost.write_bytes == output_bytes
    assert cost.cold_read_bytes == (
        problem.tokens * problem.width * inputs["cache"].itemsize if "cache" in inputs else 0
    )
    indices = sum(inputs[n].nbytes for n in ("slot_mapping", "positions", "cu_seqlens", "block_table") if n in inputs)
    total = sum(tensor.nbytes for tensor in inputs.values()) + output_bytes
    assert abs(problem.memory_bytes() - total) <= indices + 64


def test_activations_are_cold_where_no_cache_holds_them() -> None:
    for problem in (p for p in TIERS[Tier.CI] if not isinstance(p, Gather)):
        inputs = problem.make_inputs(0, "meta")
        num_bytes = sum(inputs[name].nbytes for name in problem.activations)
        is_cold = {problem.residency[name] is Residency.COLD for name in problem.activations}
        assert is_cold == {num_bytes > 32 << 20}
        assert isinstance(problem, RopeAppend | Append | MLAAppend | Rope)
        assert problem.cost(inputs).cold_read_bytes == (num_bytes if num_bytes > 32 << 20 else 0)


def test_meta_inputs_have_the_shapes_of_real_ones() -> None:
    for problem in (*MUTATED.values(), *HARD_CASES):
        real, meta = problem.make_inputs(1, "cpu"), problem.make_inputs(1, "meta")
        assert {n: (t.shape, t.dtype) for n, t in real.items()} == {n: (t.shape, t.dtype) for n, t in meta.items()}
        assert real.keys() == problem.residency.keys()


@pytest.mark.parametrize(
    ("task", "name"), [(task, name) for task, suite in PROPERTIES.items() for name in suite.properties]
)
def test_a_property_holds_for_the_reference(task: str, name: str) -> None:
    suite, told = PROPERTIES[task], []
    tight = Tolerance(rtol=1e-4, atol=1e-4, relative_rms=1e-4)

    @settings(max_examples=4, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(suite.problems(CPU, True), st.integers(0, 2**32))
    def holds(problem: Any, seed: int) -> None:
        inputs = problem.make_inputs(seed, "cpu")
        before = {key: value.clone() for key, value in inputs.items()}
        derived = derive(suite, name, problem, inputs, seed)
        assert all(torch.equal(inputs[key].view(torch.uint8), before[key].view(torch.uint8)) for key in inputs)
        if derived is None:
            return
        told.append(True)
        sides = derived.relate(
            expected_outputs(problem, inputs), [expected_outputs(case, tensors) for case, tensors in derived.cases]
        )
        for output, tolerance in problem.tolerances().items():
            fault = compare(sides[0][output], sides[1][output], tolerance if problem.is_fp8 else tight)[1]
            assert fault is None, f"{problem.id}: {output}: {fault}"

    holds()
    assert told


def test_tiles_shrink_until_every_sm_has_work() -> None:
    few, many = (_plan.rows_plan(tokens, 80, 256, H200) for tokens in (16, 8192))
    assert (many.block_tokens * many.block_heads * 256, many.num_warps) == (8192, 4)
    assert (few.block_tokens, few.num_warps) == (1, 1)
    assert 16 * 80 // few.block_heads >= 4 * H200.num_sms
