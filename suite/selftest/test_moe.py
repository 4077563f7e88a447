"""Mixture of experts: its properties, its edits, and mutants that must be rejected."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kernels.device import Device
from kernels.moe._maths import route, unpermute
from kernels.moe.problem import HARD_CASES, PROBLEMS, MoELayer, MoEPermute, MoERouter, MoEUnpermute
from kernels.moe.properties import PROPERTIES
from kernels.moe.reference import layer, run
from kernels.problem import Inputs, Outputs, Problem, Tier, Tolerance
from kernels.property import derive
from suite.judge.check import compare

pytestmark = pytest.mark.side_by_side

CPU = Device("cpu", "x86_64", 2, 0, 1, None)
TIGHT = Tolerance(rtol=1e-4, atol=2e-4, relative_rms=1e-4)
DEEPSEEK_ROUTER = MoERouter(200, 64, 6, "sigmoid", num_groups=8, top_groups=4, scaling_factor=2.5)
LAYER = MoELayer(24, 128, 96, 8, 3, routing="skewed")
PAIRS = [(task, name) for task, suite in PROPERTIES.items() for name in suite.properties]


def expected_outputs(problem: Problem, inputs: Inputs) -> Outputs:
    return {name: value.float() for name, value in run(inputs, problem).items()}


def faults(problem: Problem, expected: Outputs, actual: Outputs) -> list[str]:
    """What the referee would say of outputs once they are rounded to the dtypes that the problem declares."""
    found = []
    for name, spec in problem.output_specs().items():
        rounded = actual[name].to(getattr(torch, spec.dtype)).float()
        found.append(compare(rounded, expected[name], problem.tolerances()[name])[1])
    return [fault for fault in found if fault]


@pytest.mark.parametrize(("task", "name"), PAIRS)
def test_a_property_holds_for_the_reference(task: str, name: str) -> None:
    """Nearly exactly, so that what it says is true; and it says something about some problem."""
    suite, told = PROPERTIES[task], []

    @settings(max_examples=5, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(suite.problems(CPU, True), st.integers(0, 2**32))
    def holds(problem: Any, seed: int) -> None:
        inputs = problem.make_inputs(seed, "cpu")
        before = {key: value.clone() for key, value in inputs.items()}
        derived = derive(suite, name, problem, inputs, seed)
        assert all(torch.equal(as_bytes(inputs[key]), as_bytes(before[key])) for key in inputs)
        if derived is None:
            return
        told.append(True)
        for case, tensors in derived.cases:
            shapes = {key: value.shape for key, value in case.make_inputs(0, "meta").items()}
            assert {key: value.shape for key, value in tensors.items()} == shapes, case.id
            assert all(tensor.is_contiguous() for tensor in tensors.values())
        results = [expected_outputs(case, tensors) for case, tensors in derived.cases]
        sides = derived.relate(expected_outputs(problem, inputs), results)
        for output in problem.output_specs():
            _, fault = compare(sides[0][output], sides[1][output].float(), TIGHT)
            assert fault is None, f"{problem.id}: {output}: {fault}"

    holds()
    assert told


def as_bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(-1).view(torch.uint8)


@pytest.mark.parametrize(
    "problem",
    [p for p in (*HARD_CASES, *PROBLEMS[Tier.SMOKE]) if p.task in ("layer", "grouped_gemm")],
    ids=lambda p: p.id,
)
def test_edits_show_in_the_outputs_and_can_be_undone(problem: Any) -> None:
    inputs = problem.make_inputs(0, "cpu")
    before = {name: value.clone() for name, value in inputs.items()}
    for seed in range(3):
        stale = expected_outputs(problem, inputs)
        edits = problem.edits(inputs, torch.Generator().manual_seed(seed))
        for edit in edits:  # each by itself: a kernel may keep one tensor only
            undo = edit.apply(inputs)
            assert faults(problem, expected_outputs(problem, inputs), stale), edit.name
            undo.apply(inputs)
        assert {edit.name for edit in edits} == {name for name in inputs if name.startswith("w")}
    assert all(torch.equal(as_bytes(inputs[name]), as_bytes(value)) for name, value in before.items())


def test_mutants_of_a_layer_are_rejected() -> None:
    inputs = LAYER.make_inputs(7, "cpu")
    expected = layer(inputs, LAYER)

    def ids_off_by_one(inputs: Inputs) -> Outputs:
        return layer({**inputs, "topk_ids": (inputs["topk_ids"] + 1) % 8}, LAYER)

    def weights_swapped(inputs: Inputs) -> Outputs:
        return layer({**inputs, "topk_weights": inputs["topk_weights"].flip(1)}, LAYER)

    def weights_of_the_next_token(inputs: Inputs) -> Outputs:
        return layer({**inputs, "topk_weights": inputs["topk_weights"].roll(1, 0)}, LAYER)

    def last_expert_dropped(inputs: Inputs) -> Outputs:
        most = int(inputs["topk_ids"].max())
        return layer({**inputs, "topk_ids": inputs["topk_ids"].masked_fill(inputs["topk_ids"] == most, -1)}, LAYER)

    def wrong_scale(inputs: Inputs) -> Outputs:
        return {"out": expected["out"] * 1.02}

    def tokens_swapped(inputs: Inputs) -> Outputs:
        return {"out": expected["out"].roll(1, 0)}

    def last_columns_dropped(inputs: Inputs) -> Outputs:
        w2 = inputs["w2"].clone()
        w2[:, :, -8:] = 0
        return layer({**inputs, "w2": w2}, LAYER)

    for mutant in (
        ids_off_by_one, weights_swapped, weights_of_the_next_token, last_expert_dropped, wrong_scale, tokens_swapped,
        last_columns_dropped,
    ):  # fmt: skip
        assert faults(LAYER, expected, mutant(inputs)), mutant.__name__


def test_who_drops_light_experts_is_found_by_a_property() -> None:
    inputs = LAYER.make_inputs(7, "cpu")

    def dropping(inputs: Inputs) -> Outputs:
        ids, weights = inputs["topk_ids"], inputs["topk_weights"]
        light = weights < weights.amax(-1, keepdim=True) / 100
        return layer({**inputs, "topk_ids": ids.masked_fill(light, -1)}, LAYER)

    assert not faults(LAYER, layer(inputs, LAYER), dropping(inputs))
    derived = derive(PROPERTIES["layer"], "heaviest_yields_nothing", LAYER, inputs, 3)
    assert derived is not None
    assert faults(LAYER, layer(derived.cases[0][1], LAYER), dropping(derived.cases[0][1]))


def test_mutants_in_8_bits_are_rejected() -> None:
    problem = MoELayer(24, 256, 256, 8, 2, weight_dtype="float8_e4m3fn")
    inputs = problem.make_inputs(7, "cpu")
    expected = layer(inputs, problem)
    for name in ("w13_scale", "w2_scale"):
        table = inputs[name]
        for wrong in (torch.ones_like(table) * table.mean(), table.roll(1, 2), table.roll(1, 1), table.roll(1, 0)):
            assert faults(problem, expected, layer({**inputs, name: wrong.contiguous()}, problem)), name


def test_mutants_of_the_exchange_and_the_router_are_rejected() -> None:
    there, back = MoEPermute(40, 64, 9, 3), MoEUnpermute(40, 64, 9, 3)
    inputs = there.make_inputs(1, "cpu")
    expected = expected_outputs(there, inputs)
    unstable = {**expected, "permuted": expected["permuted"].flip(0)}
    late = {**expected, "expert_ends": expected["expert_ends"].roll(1)}
    assert all(faults(there, expected, mutant) for mutant in (unstable, late))
    inputs = back.make_inputs(1, "cpu")
    wrong_rows = unpermute({**inputs, "rows": inputs["rows"].roll(1, 0)}, back)
    assert faults(back, unpermute(inputs, back), wrong_rows)
    inputs = DEEPSEEK_ROUTER.make_inputs(1, "cpu")
    expected = expected_outputs(DEEPSEEK_ROUTER, inputs)
    no_groups = route(inputs, replace(DEEPSEEK_ROUTER, num_groups=1, top_groups=1))
    no_bias = route({**inputs, "correction_bias": inputs["correction_bias"] * 0}, DEEPSEEK_ROUTER)
    unscaled = route(inputs, replace(DEEPSEEK_ROUTER, scaling_factor=1.0))
    three_groups = route(inputs, replace(DEEPSEEK_ROUTER, top_groups=3))
    assert all(faults(DEEPSEEK_ROUTER, expected, mutant) for mutant in (no_groups, no_bias, unscaled, three_groups))
