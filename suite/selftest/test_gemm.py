"""Linear layers: what stored bits mean, what tolerances allow and forbid, what shares cover, what must hold."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.device import Device
from kernels.discover import load_problems
from kernels.gemm import _decode, reference
from kernels.gemm._stream_k_plan import Tile, stream_k
from kernels.gemm.problem import Linear, LinearFP8, LinearMX
from kernels.gemm.properties import PROPERTIES
from kernels.problem import Inputs, Problem, Tier, Tolerance
from kernels.property import derive
from suite.judge.check import compare

pytestmark = pytest.mark.side_by_side

CPU = Device("cpu", "x86_64", 2, 0, 1, None)
H200 = Device("cuda", "sm_90", 132, 232448, 32, "float8_e4m3fn")
MI300X = Device("hip", "gfx942", 304, 65536, 64, "float8_e4m3fnuz")
TIERS, HARD_CASES = load_problems("gemm")
TIGHT = Tolerance(rtol=1e-4, atol=1e-5, relative_rms=1e-4)


def fault(problem: Problem, out: torch.Tensor, expected: torch.Tensor) -> str | None:
    """What the referee would say of an output once it is rounded to the dtype that the problem declares."""
    rounded = out.to(getattr(torch, problem.output_specs()["out"].dtype)).float()
    return compare(rounded, expected, problem.tolerances()["out"])[1]


def run(problem: Problem, inputs: Inputs) -> torch.Tensor:
    return reference.run(inputs, problem)["out"]


# What bits mean


def test_codes_are_those_of_the_standard() -> None:
    e2m1 = [0, 0.5, 1, 1.5, 2, 3, 4, 6]
    assert _decode.values(torch.arange(16), "mxfp4").tolist() == [*e2m1, *(-value for value in e2m1)]
    for w_format, smallest, largest in (("mxfp6_e2m3", 0.125, 7.5), ("mxfp6_e3m2", 0.0625, 28.0)):
        values = _decode.values(torch.arange(64), w_format)
        assert (float(values[1]), float(values[31])) == (smallest, largest)
        assert values[:32].diff().min() > 0
        assert torch.equal(values[32:], -values[:32])


def test_packed_codes_come_out_in_order() -> None:
    codes = torch.randint(64, (3, 64), generator=torch.Generator().manual_seed(0))
    bits = torch.stack([codes >> bit & 1 for bit in range(6)], -1).view(3, -1, 8)  # one stream, lowest bit first
    packed = (bits << torch.arange(8)).sum(-1).to(torch.uint8)
    assert torch.equal(_decode.codes(packed, 6).long(), codes)
    assert _decode.codes(torch.tensor([[0x21, 0x43]], dtype=torch.uint8), 4).tolist() == [[1, 2, 3, 4]]


@pytest.mark.parametrize("problem", HARD_CASES, ids=lambda problem: problem.id)
def test_reference_is_the_sum_of_products(problem: Any) -> None:
    inputs = problem.make_inputs(3, "cpu")
    out = run(problem, inputs)
    for m, n in ((0, 0), (problem.m - 1, problem.n - 1), (problem.m // 2, problem.n // 3)):
        x = [float(v) for v in inputs["x"][m].float()]
        total = sum(
            value * x_factor(problem, inputs, m, k) * weight(problem, inputs, n, k) for k, value in enumerate(x)
        )
        assert float(out[m, n]) == pytest.approx(total, rel=1e-5, abs=1e-5)


def x_factor(problem: Any, inputs: Inputs, m: int, k: int) -> float:
    if isinstance(problem, LinearFP8):
        scale = inputs["x_scale"]
        return float(scale[k // 128 if problem.scaling == "block" else 0, m % scale.shape[1]])
    return 2.0 ** (int(inputs["x_scale"][m, k // 32]) - 127) if "x_scale" in inputs else 1.0


def weight(problem: Any, inputs: Inputs, n: int, k: int) -> float:
    w = inputs["w"]
    if isinstance(problem, LinearFP8):
        row, column = {"block": (n // 128, k // 128), "row": (n, 0), "tensor": (0, 0)}[problem.scaling]
        return float(w[n, k].float()) * float(inputs["w_scale"][row, column])
    if not isinstance(problem, LinearMX):
        return float(w[n, k])
    bits = 4 if problem.w_format == "mxfp4" else 6
    stream = int.from_bytes(bytes(w[n].tolist()), "little")
    code = torch.tensor([stream >> (k * bits) & (2**bits - 1)])
    return float(_decode.values(code, problem.w_format)) * 2.0 ** (int(inputs["w_scale"][n, k // 32]) - 127)


# What a problem says of itself


@pytest.mark.parametrize("problem", [*TIERS[Tier.SMOKE], *HARD_CASES], ids=lambda problem: problem.id)
def test_costs_and_shapes_are_those_of_the_inputs(problem: Any) -> None:
    inputs, meta = problem.make_inputs(0, "cpu"), problem.make_inputs(0, "meta")
    assert {n: (t.shape, t.dtype) for n, t in inputs.items()} == {n: (t.shape, t.dtype) for n, t in meta.items()}
    cost = problem.cost(inputs)
    assert cost.flops == 2 * problem.m * problem.n * problem.k
    bits = {"Linear": 32 if "float32" in problem.id.split("-")[-1] else 16, "LinearFP8": 8, "LinearMX": 0}
    w_bits = bits[type(problem).__name__] or (4 if problem.w_format == "mxfp4" else 6)
    scale_bytes = inputs["w_scale"].nbytes if "w_scale" in inputs else 0
    assert cost.cold_read_bytes == problem.n * problem.k * w_bits // 8 + scale_bytes
    assert problem.memory_bytes() == sum(t.nbytes for t in inputs.values()) + cost.write_bytes


@pytest.mark.parametrize("problem", [*TIERS[Tier.SMOKE], *HARD_CASES], ids=lambda problem: problem.id)
def test_what_is_kept_of_other_inputs_is_wrong(problem: Any) -> None:
    inputs, generator = problem.make_inputs(5, "cpu"), torch.Generator().manual_seed(1)
    before = {name: tensor.clone() for name, tensor in inputs.items()}
    first = run(problem, inputs)
    problem.redraw(inputs, generator)
    redrawn = run(problem, inputs)
    assert fault(problem, first, redrawn)
    undo = [edit.apply(inputs) for edit in problem.edits(inputs, generator)]
    assert fault(problem, redrawn, run(problem, inputs))
    for edit in reversed(undo):
        edit.apply(inputs)
    for name in inputs.keys() - set(problem.activations):
        assert torch.equal(inputs[name].view(torch.uint8), before[name].view(torch.uint8)), name


def test_bad_fields_are_told() -> None:
    for wrong in (
        lambda: Linear(0, 1, 1), lambda: Linear(1, 1, 1, dtype="int8"), lambda: Linear(1, 1, 1, out_dtype="int8"),
        lambda: LinearFP8(1, 1, 1, scaling="column"), lambda: LinearFP8(1, 1, 1, dtype="float8_e5m2"),
        lambda: LinearMX(1, 1, 33), lambda: LinearMX(1, 1, 32, w_format="mxfp5"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"\.$"):
            wrong()


# What tolerances forbid, and what they must allow


def summed(x: torch.Tensor, w: torch.Tensor, step: int, dtype: torch.dtype) -> torch.Tensor:
    """Exact products of `step` of K, added to a running sum that is kept in `dtype`."""
    out = torch.zeros(len(x), len(w), dtype=dtype)
    for x_part, w_part in zip(x.float().split(step, 1), w.float().split(step, 1), strict=True):
        out = (out.float() + x_part @ w_part.t()).to(dtype)
    return out.float()


@pytest.mark.parametrize("k", [512, 4096])
@pytest.mark.parametrize("distribution", Linear.distributions)
def test_sums_in_fp16_are_rejected(k: int, distribution: str) -> None:
    problem = Linear(8, 64, k, dtype="float16", out_dtype="float16")
    inputs = problem.make_inputs(1, "cpu", distribution)
    expected = run(problem, inputs)
    assert fault(problem, summed(inputs["x"], inputs["w"], 16, torch.float16), expected)
    assert not fault(problem, summed(inputs["x"], inputs["w"], 16, torch.float32), expected)


def test_sums_for_fp32_outputs_are_fp32() -> None:
    problem = Linear(8, 64, 8192, out_dtype="float32")
    inputs = problem.make_inputs(1, "cpu")
    expected = run(problem, inputs)
    assert not fault(problem, summed(inputs["x"], inputs["w"], 16, torch.float32), expected)
    assert fault(problem, summed(inputs["x"], inputs["w"], 16, torch.float16), expected)
    assert fault(problem, expected.bfloat16().float(), expected)


def test_fp32_inputs_must_not_become_tf32() -> None:
    problem = Linear(8, 64, 2048, dtype="float32", out_dtype="float32")
    inputs = problem.make_inputs(1, "cpu")
    tf32 = {name: (t.view(torch.int32) + (1 << 12) & -(1 << 13)).view(torch.float32) for name, t in inputs.items()}
    assert fault(problem, run(problem, tf32), run(problem, inputs))
    assert not fault(problem, inputs["x"] @ inputs["w"].t(), run(problem, inputs))


def test_two_parts_rounded_before_they_are_added_pass() -> None:
    """cuBLAS splits K so, unless it is told not to."""
    problem = Linear(32, 256, 8192)
    inputs = problem.make_inputs(1, "cpu")
    x, w = inputs["x"].float(), inputs["w"].float()
    parts = [(x[:, part] @ w[:, part].t()).bfloat16().float() for part in (slice(0, 4096), slice(4096, None))]
    assert not fault(problem, parts[0] + parts[1], run(problem, inputs))


def hopper_fp8(x: torch.Tensor, w: torch.Tensor, moved_every: int) -> torch.Tensor:
    """Sums of 32 products, each cut off 13 bits below the largest; moved to fp32 every so many of K."""
    total, acc = torch.zeros(len(x), len(w)), torch.zeros(len(x), len(w))
    for start in range(0, x.shape[1], 32):
        terms = x[:, None, start : start + 32] * w[None, :, start : start + 32]
        terms = torch.cat([acc[..., None], terms], -1)
        quantum = torch.exp2(terms.abs().amax(-1, keepdim=True).log2().floor() - 13)
        acc = ((terms / quantum).trunc() * quantum).sum(-1)
        if (start + 32) % moved_every == 0:
            total, acc = total + acc, torch.zeros_like(acc)
    return total + acc


def test_fp8_sums_must_leave_the_tensor_cores() -> None:
    problem = LinearFP8(8, 40, 7168, scaling="tensor")
    inputs = problem.make_inputs(1, "cpu")
    expected, scale = run(problem, inputs), inputs["x_scale"] * inputs["w_scale"]
    x, w = inputs["x"].float(), inputs["w"].float()
    assert not fault(problem, hopper_fp8(x, w, 128) * scale, expected)
    assert fault(problem, hopper_fp8(x, w, problem.k) * scale, expected)


def mutants() -> dict[str, tuple[Any, Any]]:
    """Name -> (problem, its inputs as a wrong kernel would see them)."""
    fp8, mx = LinearFP8(5, 300, 400), LinearMX(5, 70, 256, x_format="mxfp8")
    fp6 = replace(mx, w_format="mxfp6_e2m3")
    return {
        "a scale of x further along K": (fp8, lambda i: {**i, "x_scale": i["x_scale"].roll(1, 0)}),
        "a scale of x of the next token": (fp8, lambda i: {**i, "x_scale": i["x_scale"].roll(1, 1)}),
        "a scale of w further along N": (fp8, lambda i: {**i, "w_scale": i["w_scale"].roll(1, 0)}),
        "the last, partial group with the scale before": (fp8, lambda i: {**i, "w_scale": repeated_last(i["w_scale"])}),
        "halves of bytes swapped": (mx, lambda i: {**i, "w": i["w"] << 4 | i["w"] >> 4}),
        "a scale of w of the next group": (mx, lambda i: {**i, "w_scale": i["w_scale"].roll(1, 1)}),
        "one scale for 64": (mx, lambda i: {**i, "w_scale": i["w_scale"][:, ::2].repeat_interleave(2, 1)}),
        "a scale of x one too large": (mx, lambda i: {**i, "x_scale": i["x_scale"] + 1}),
        "bytes of three in another order": (fp6, lambda i: {**i, "w": i["w"].view(70, -1, 3).flip(2).flatten(1)}),
        "e3m2 for e2m3": (fp6, lambda i: i),
    }  # fmt: skip


def repeated_last(scale: torch.Tensor) -> torch.Tensor:
    return torch.cat([scale[:, :-1], scale[:, -2:-1]], 1)


@pytest.mark.parametrize("name", mutants())
def test_mutants_of_gemm_are_rejected(name: str) -> None:
    problem, mutate = mutants()[name]
    inputs = problem.make_inputs(7, "cpu")
    expected = run(problem, inputs)
    assert not fault(problem, expected, expected)
    as_run = replace(problem, w_format="mxfp6_e3m2") if name == "e3m2 for e2m3" else problem
    assert fault(problem, run(as_run, mutate(inputs)), expected)


# What a plan's shares cover

SHAPES = st.builds(Linear, *(st.integers(1, most) for most in (300, 9000, 9000)))
TILES = st.builds(
    Tile,
    block_m=st.sampled_from((16, 64, 128)),
    block_n=st.sampled_from((16, 64, 256)),
    block_k=st.sampled_from((32, 128, 256)),
    num_warps=st.sampled_from((4, 8)),
    num_stages=st.just(3),
    programs_per_sm=st.integers(1, 3),
    min_steps=st.integers(1, 4),
)


@settings(max_examples=150, derandomize=True, database=None, deadline=None)
@given(SHAPES, TILES, st.sampled_from((H200, MI300X)))
def test_shares_cover_every_step_once(problem: Linear, tile: Tile, device: Device) -> None:
    plan = stream_k(problem, tile, device)
    total = plan.num_tiles * plan.steps
    assert plan.num_tiles == -(-problem.m // tile.block_m) * -(-problem.n // tile.block_n)
    assert plan.steps * tile.block_k >= problem.k > (plan.steps - 1) * tile.block_k
    assert (plan.num_programs - 1) * plan.per_program < total <= plan.num_programs * plan.per_program
    assert plan.per_program % plan.steps == 0 or plan.num_programs <= device.num_sms * tile.programs_per_sm
    most_parts = 1
    for t in range(plan.num_tiles):
        first, last = t * plan.steps // plan.per_program, ((t + 1) * plan.steps - 1) // plan.per_program
        assert first * plan.per_program <= t * plan.steps
        assert (last + 1) * plan.per_program >= (t + 1) * plan.steps
        most_parts = max(most_parts, last - first + 1)
    assert plan.is_split or most_parts == 1
    assert plan.block_m % plan.combine_rows == 0
    assert plan.combine != "arrival" or most_parts * plan.block_m * plan.block_n * 4 <= 128 << 10 or not plan.is_split


def test_shares_are_equal_on_an_h200() -> None:
    """Small products keep nearly all programs busy to the end."""
    for problem in (Linear(16, 8192, 8192), Linear(16, 2112, 7168), Linear(16, 256, 7168)):
        plan = stream_k(problem, Tile(16, 64, 128, num_warps=4, num_stages=5, programs_per_sm=2), H200)
        slots = H200.num_sms * 2
        assert plan.num_tiles * plan.steps / (plan.per_program * slots) > 0.85 or plan.per_program == 2


# What must hold


@pytest.mark.parametrize("task", PROPERTIES)
@pytest.mark.parametrize("name", PROPERTIES["linear"].properties)
def test_a_property_holds_for_the_reference(task: str, name: str) -> None:
    """Nearly exactly, so that what it says is true; and it says something about some problem."""
    suite, told = PROPERTIES[task], list[bool]()
    drawn = st.tuples(
        suite.problems(CPU, True), st.sampled_from(suite.problem_class.distributions), st.integers(0, 2**32)
    )

    @settings(max_examples=12, derandomize=True, database=None, deadline=None)
    @given(drawn)
    def holds(drawn: tuple[Any, str, int]) -> None:
        problem, distribution, seed = drawn
        inputs = problem.make_inputs(seed, "cpu", distribution)
        before = {key: value.clone() for key, value in inputs.items()}
        derived = derive(suite, name, problem, inputs, seed)
        assert all(torch.equal(inputs[key].view(torch.uint8), before[key].view(torch.uint8)) for key in inputs)
        if derived is None:
            return
        told.append(True)
        for case, tensors in derived.cases:
            meta = case.make_inputs(0, "meta")
            assert {n: (t.shape, t.dtype) for n, t in tensors.items()} == {
                n: (t.shape, t.dtype) for n, t in meta.items()
            }
            assert all(tensor.is_contiguous() for tensor in tensors.values())
        base = {"out": run(problem, inputs)}
        sides = derived.relate(base, [{"out": run(case, tensors)} for case, tensors in derived.cases])
        assert compare(sides[0]["out"], sides[1]["out"], TIGHT)[1] is None, problem.id

    holds()
    assert told
