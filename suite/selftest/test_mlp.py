"""The family mlp: its properties hold for the maths, mutants of its tasks are rejected, costs and edits are right."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.device import Device
from kernels.discover import load_problems
from kernels.mlp import reference
from kernels.mlp.problem import AddRMSNorm, MLPBlock, QKNormRopeAppend, QKVProjection, RMSNorm, SwiGLU
from kernels.mlp.properties import PROPERTIES
from kernels.problem import Inputs, Outputs, Problem, Tier, Tolerance
from kernels.property import derive
from kernels.updates import spoil_updates
from suite.judge.check import compare, expected_outputs

pytestmark = pytest.mark.side_by_side

CPU = Device("cpu", "x86_64", 2, 0, 1, None)
H200 = Device("cuda", "sm_90", 132, 232448, 32, "float8_e4m3fn")
DEVICES = {
    "a100": Device("cuda", "sm_80", 108, 166912, 32, None),
    "h200": H200,
    "b200": Device("cuda", "sm_100", 148, 232448, 32, "float8_e4m3fn"),
    "rtx": Device("cuda", "sm_120", 170, 101376, 32, "float8_e4m3fn"),
    "mi300x": Device("hip", "gfx942", 304, 65536, 64, "float8_e4m3fnuz"),
    "mi355x": Device("hip", "gfx950", 256, 163840, 64, "float8_e4m3fn"),
}
TIERS, HARD_CASES = load_problems("mlp")
TIGHT = Tolerance(rtol=2e-4, atol_rms=2e-4, relative_rms=2e-4)
BF16 = Tolerance(rtol=2**-7, atol_rms=2**-7, relative_rms=2**-7)
"""Outputs in a cache are rounded by the reference as well, and a rounding may fall to either side."""

BLOCK = MLPBlock(5, 96, 130)
QKV = QKVProjection(5, 96, 3, 2, qk_norm=True, head_dim=32, max_position=64)
APPEND = QKNormRopeAppend(6, 3, 2, head_dim=32, page_size=4, max_position=64)
ADD = AddRMSNorm(3, 130)


def outputs_of(problem: Problem, inputs: Inputs) -> Outputs:
    return {name: value.clone() for name, value in expected_outputs(problem, inputs).items()}


def faults(problem: Problem, expected: Outputs, actual: Outputs) -> list[str]:
    found = []
    for name, spec in problem.output_specs().items():
        rounded = actual[name].to(getattr(torch, spec.dtype)).float()
        found.append(compare(rounded, expected[name], problem.tolerances()[name])[1])
    return [fault for fault in found if fault]


# Properties


@pytest.mark.parametrize(
    ("task", "name"), [(task, name) for task, suite in PROPERTIES.items() for name in suite.properties]
)
def test_a_property_of_mlp_holds_for_the_reference(task: str, name: str) -> None:
    """Nearly exactly, so that what it says is true; and it says something about some problem."""
    suite, told = PROPERTIES[task], []
    drawn = st.tuples(
        suite.problems(CPU, True), st.sampled_from(suite.problem_class.distributions), st.integers(0, 2**32)
    )

    @settings(max_examples=4, derandomize=True, database=None, deadline=None)
    @given(drawn)
    def holds(drawn: tuple[Any, str, int]) -> None:
        problem, distribution, seed = drawn
        inputs = problem.make_inputs(seed, "cpu", distribution)
        before = {key: value.clone() for key, value in inputs.items()}
        derived = derive(suite, name, problem, inputs, seed)
        assert all(torch.equal(inputs[key], before[key]) for key in inputs)
        if derived is None:
            return
        told.append(True)
        base = outputs_of(problem, inputs)
        sides = derived.relate(base, [outputs_of(case, tensors) for case, tensors in derived.cases])
        for output in problem.output_specs():
            tolerance = BF16 if output.endswith("_cache") else TIGHT
            _, fault = compare(sides[0][output].float(), sides[1][output].float(), tolerance)
            assert fault is None, f"{problem.id}: {output}: {fault}"

    holds()
    assert told


# Mutants


def test_mutants_of_the_block_are_rejected() -> None:
    inputs = BLOCK.make_inputs(7, "cpu")
    expected = outputs_of(BLOCK, inputs)

    def last_neuron_lost() -> Outputs:
        weight = inputs["w_down"].clone()
        weight[:, -2:] = 0
        return reference.block({**inputs, "w_down": weight}, BLOCK)

    def row_of_a_neighbour() -> Outputs:
        return reference.block({**inputs, "w_gate_up": inputs["w_gate_up"].roll(1, dims=0)}, BLOCK)

    def tokens_swapped() -> Outputs:
        return {"out": expected["out"].flip(0)}

    def gelu_for_silu() -> Outputs:
        h = reference.rms_normed(inputs["x"], inputs["norm_weight"], BLOCK.epsilon)
        gate, up = (h @ inputs["w_gate_up"].float().T).chunk(2, dim=-1)
        out = (torch.nn.functional.gelu(gate) * up) @ inputs["w_down"].float().T
        return {"out": inputs["x"].float() + out}

    def residual_after_norm() -> Outputs:
        h = reference.rms_normed(inputs["x"], inputs["norm_weight"], BLOCK.epsilon)
        return {"out": expected["out"] - inputs["x"].float() + h}

    for mutant in (last_neuron_lost, row_of_a_neighbour, tokens_swapped, gelu_for_silu, residual_after_norm):
        assert faults(BLOCK, expected, mutant()), mutant.__name__


def test_mutants_of_the_projection_are_rejected() -> None:
    inputs = QKV.make_inputs(7, "cpu")
    expected = outputs_of(QKV, inputs)
    interleaved = {**expected, "q": expected["q"].view(5, 3, 2, 16).transpose(2, 3).reshape(5, 3, 32)}
    backwards = reference.qkv(
        {**inputs, "cos_sin": inputs["cos_sin"] * torch.tensor([1.0, -1.0]).repeat_interleave(16)}, QKV
    )
    weights_swapped = reference.qkv(
        {**inputs, "q_norm_weight": inputs["k_norm_weight"], "k_norm_weight": inputs["q_norm_weight"]}, QKV
    )
    half_turned = {**expected, "k": torch.cat((expected["k"][..., :16], reference.qkv(
        {**inputs, "positions": inputs["positions"] * 0}, QKV)["k"][..., 16:]), dim=-1)}  # fmt: skip
    for mutant in (interleaved, backwards, weights_swapped, half_turned):
        assert faults(QKV, expected, mutant)


def test_mutants_of_the_append_are_rejected() -> None:
    inputs = APPEND.make_inputs(7, "cpu")
    expected = outputs_of(APPEND, inputs)

    def appended(**changed: torch.Tensor) -> Outputs:
        """What lies in the right slots after a call with other inputs."""
        spoil_updates(APPEND, inputs)
        q = reference.qk_append({**inputs, **changed}, APPEND)["q"]
        rows = APPEND.updated_rows(inputs)
        return {"q": q} | {name: inputs[name].view(-1, 32)[at].float() for name, at in rows.items()}

    assert not faults(APPEND, expected, appended())
    assert faults(APPEND, expected, appended(slots=(inputs["slots"] + APPEND.page_size) % 24))  # off by one page
    assert faults(APPEND, expected, appended(slots=inputs["slots"].roll(1)))
    assert faults(APPEND, expected, appended(positions=inputs["positions"].roll(1)))
    assert faults(APPEND, expected, {**expected, "v_cache": expected["v_cache"] * (1 + 2**-7)})


def test_a_wrong_epsilon_shows_where_values_are_small() -> None:
    for problem in (RMSNorm(3, 130), ADD, BLOCK, replace(QKV, qk_norm=False)):
        inputs = problem.make_inputs(7, "cpu", "small")
        wrong = outputs_of(replace(problem, epsilon=2 * problem.epsilon), inputs)
        assert faults(problem, outputs_of(problem, inputs), wrong), problem.task


def test_mutants_of_the_sum_are_rejected() -> None:
    inputs = ADD.make_inputs(7, "cpu")
    expected = outputs_of(ADD, inputs)
    mean_square_of_x = inputs["x"].float().square().mean(-1, keepdim=True)
    by_x = expected["residual_out"] * torch.rsqrt(mean_square_of_x + ADD.epsilon) * inputs["weight"].float()
    assert faults(ADD, expected, {**expected, "out": by_x})
    assert faults(ADD, expected, {**expected, "residual_out": expected["residual_out"] * (1 + 2**-6)})
    one_column_off = reference.run({**inputs, "weight": inputs["weight"].roll(1)}, ADD)
    assert faults(ADD, expected, one_column_off)


def test_a_scale_that_is_off_by_a_hundredth_is_rejected_in_a_wide_layer() -> None:
    problem = MLPBlock(2, 4096, 256)
    inputs = problem.make_inputs(1, "cpu")
    expected = outputs_of(problem, inputs)
    assert not faults(problem, expected, {"out": expected["out"].bfloat16().float()})
    assert faults(problem, expected, {"out": (1.01 * expected["out"]).bfloat16().float()})


# Edits, costs, memory


@pytest.mark.parametrize(
    "problem", [MLPBlock(3, 512, 1376), MLPBlock(1, 64, 28672), QKV, APPEND, ADD], ids=lambda p: p.id
)
@pytest.mark.parametrize("seed", range(3))
def test_an_edit_of_any_kept_input_shows(problem: Problem, seed: int) -> None:
    """Each by itself: what a kernel kept of one input must be wrong whatever it reads of the others."""
    inputs = problem.make_inputs(seed, "cpu")
    before = outputs_of(problem, inputs)
    edits = problem.edits(inputs, torch.Generator().manual_seed(seed))
    kept = {n for n, r in problem.residency.items() if r.value == "cold" and n in inputs and not n.endswith("_cache")}
    assert {edit.name for edit in edits} == kept | inputs.keys() & {"cos_sin"}
    for edit in edits:
        undo = edit.apply(inputs)
        assert faults(problem, outputs_of(problem, inputs), before), edit.name
        undo.apply(inputs)
    assert not faults(problem, outputs_of(problem, inputs), before)


def test_costs_of_the_block_are_those_of_a_naive_count() -> None:
    inputs = BLOCK.make_inputs(0, "cpu")
    multiplied = sum(BLOCK.tokens * weight.numel() for name, weight in inputs.items() if name.startswith("w_"))
    cost = BLOCK.cost(inputs)
    assert cost.flops == 2 * multiplied
    assert cost.cold_read_bytes == sum(t.numel() * 2 for name, t in inputs.items() if name != "x")
    assert cost.write_bytes == inputs["x"].numel() * 2


@pytest.mark.parametrize("problem", [BLOCK, QKV, APPEND, ADD, RMSNorm(3, 40), SwiGLU(3, 40)], ids=lambda p: p.task)
def test_memory_and_writes_are_those_of_the_tensors(problem: Problem) -> None:
    inputs = problem.make_inputs(0, "cpu")
    outputs = [torch.empty(spec.shape, dtype=getattr(torch, spec.dtype)) for spec in problem.output_specs().values()]
    written = sum(t.numel() * t.element_size() for t in outputs)
    updated = {name for name in problem.output_specs() if name in inputs}
    fresh = sum(math.prod(spec.shape) * 2 for name, spec in problem.output_specs().items() if name not in updated)
    held = sum(t.numel() * t.element_size() for t in inputs.values()) + fresh
    assert problem.cost(inputs).write_bytes == written
    assert held <= problem.memory_bytes() <= 1.5 * held


def test_meta_inputs_are_those_that_are_drawn() -> None:
    for problem in (BLOCK, replace(BLOCK, norm=False), QKV, replace(QKV, qk_norm=False), APPEND, ADD, SwiGLU(3, 40)):
        meta, drawn = problem.make_inputs(0, "meta"), problem.make_inputs(0, "cpu")
        assert {n: (t.shape, t.dtype) for n, t in meta.items()} == {n: (t.shape, t.dtype) for n, t in drawn.items()}


def test_slots_are_distinct_and_rows_of_updates_too() -> None:
    inputs = APPEND.make_inputs(3, "cpu")
    assert len(inputs["slots"].unique()) == APPEND.tokens
    for name, rows in APPEND.updated_rows(inputs).items():
        assert len(rows.unique()) == len(rows) == APPEND.output_specs()[name].shape[0]


# Plans


@pytest.mark.parametrize("device", DEVICES.values(), ids=DEVICES)
def test_plans_cover_every_product_of_the_sweep(device: Device) -> None:
    from kernels.mlp._block_plan import plan as plan_block
    from kernels.mlp._gemm_plan import columns_of
    from kernels.mlp._qkv_plan import plan as plan_qkv

    gemms = []
    for problem in {p for tier in Tier for p in TIERS[tier]} | set(HARD_CASES):
        if isinstance(problem, MLPBlock):
            block = plan_block(problem, {}, device)
            gemms += [block.gate_up, block.down]
        elif isinstance(problem, QKVProjection):
            gemms.append(plan_qkv(problem, {}, device).gemm)
    for plan in gemms:
        product = plan.product
        assert plan.tiles_n * plan.block_n >= columns_of(product)
        assert plan.tiled or plan.block_m >= product.tokens
        assert not product.rope or plan.block_n % product.half_block == 0
        assert not (plan.norm_input and plan.splits > 1)
        stages = plan.num_stages if device.compute_capability >= 90 else plan.num_stages - 1  # one is in registers
        assert 2 * plan.block_k * (plan.block_m + 2 * plan.block_n) * stages <= device.shared_memory_bytes
    assert any(plan.splits > 1 for plan in gemms)
    assert any(plan.norm_input for plan in gemms)


def test_few_tokens_keep_every_sm_streaming() -> None:
    from kernels.mlp._block_plan import plan

    kernels: dict[int, list[str]] = {1: ["vector"], 2: ["ring"], 16: ["ring"], 17: [], 64: [], 128: [], 129: ["tiled"]}
    for tokens, kernel in kernels.items():
        block = plan(MLPBlock(tokens, 8192, 3584), {}, H200)
        for gemm in (block.gate_up, block.down):
            assert [name for name in ("vector", "ring", "tiled") if getattr(gemm, name)] == kernel
            if 1 < tokens <= 64:
                assert H200.num_sms < gemm.tiles_n * gemm.splits <= 2 * H200.num_sms
    assert not plan(MLPBlock(16, 8196, 3584), {}, H200).gate_up.ring  # rows that TMA does not take
