"""Signs that are drawn anew: everywhere, the same on both sides, and put back to the bit."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from kernels.discover import families, load_problems  # noqa: E402 - after the skip
from kernels.gemm import _decode  # noqa: E402
from kernels.gemm._linear_mx_problem import BITS, LinearMX  # noqa: E402
from kernels.kv.problem import Gather  # noqa: E402
from kernels.mla.problem import MLADecode  # noqa: E402
from kernels.problem import Problem, Tier  # noqa: E402
from suite.device.detect import PROJECT_ROOT  # noqa: E402
from suite.judge.renewal import SIGN_BYTES, UNSIGNED_ZERO, Renewal  # noqa: E402

PROBLEM = MLADecode(2, 1, 100, 3)


def smoke_problems() -> list[Problem]:
    problems = [load_problems(family)[0][Tier.SMOKE] for family in families(PROJECT_ROOT)]
    return [next(iter(kin)) for kin in problems]


def all_problems() -> list[Problem]:
    found = [([p.cut() for p in tiers[Tier.SMOKE]], hard) for tiers, hard in map(load_problems, families(PROJECT_ROOT))]
    return [problem for smoke, hard in found for problem in (*smoke, *hard)]


def test_every_element_of_the_cache_may_change_its_sign_and_nothing_else_does() -> None:
    inputs = PROBLEM.make_inputs(0, "cpu")
    before = {name: tensor.clone() for name, tensor in inputs.items()}
    renewal = Renewal(PROBLEM, inputs)
    renewal.renew(1)
    flipped = (inputs["kv_cache"] != before["kv_cache"]).float()
    assert 0.49 < float(flipped.mean()) < 0.51
    assert all(0.4 < share < 0.6 for share in flipped.mean((0, 2)).tolist())  # of every row of a page
    assert torch.equal(inputs["kv_cache"].abs(), before["kv_cache"].abs())
    assert all(torch.equal(inputs[name], before[name]) for name in inputs if name != "kv_cache")
    renewal.restore()
    assert torch.equal(inputs["kv_cache"], before["kv_cache"])


def test_signs_are_those_of_the_seed_whatever_they_were() -> None:
    inputs, others = (PROBLEM.make_inputs(0, "cpu") for _ in range(2))
    renewal, other = Renewal(PROBLEM, inputs), Renewal(PROBLEM, others)
    renewal.renew(1)
    renewal.renew(2)
    other.renew(2)
    assert torch.equal(inputs["kv_cache"], others["kv_cache"])
    other.renew(3)
    assert not torch.equal(inputs["kv_cache"], others["kv_cache"])


@pytest.mark.parametrize("dtype", SIGN_BYTES)
def test_the_mask_of_a_type_holds_its_sign_bits_and_no_other(dtype: Any) -> None:
    values = torch.tensor([1.5, -2.0, 0.25, 3.0] * 2, dtype=torch.float32).to(dtype)
    mask = torch.tensor(SIGN_BYTES[dtype], dtype=torch.uint8)
    flipped = (values.view(torch.uint8).view(-1, len(mask)) ^ mask).flatten().view(dtype)
    assert torch.equal(flipped.float(), -values.float())


@pytest.mark.parametrize("w_format", BITS)
def test_packed_values_change_their_signs_and_nothing_else(w_format: str) -> None:
    problem = LinearMX(4, 130, 96, w_format=w_format)
    inputs = problem.make_inputs(0, "cpu")
    before = inputs["w"].clone()
    values, scales = _decode.weights(before, inputs["w_scale"], w_format), inputs["w_scale"].clone()
    renewal = Renewal(problem, inputs)
    renewal.renew(1)
    now = _decode.weights(inputs["w"], inputs["w_scale"], w_format)
    assert torch.equal(now.abs(), values.abs())
    assert 0.45 < float((now != values).float().mean() / (values != 0).float().mean()) < 0.55
    assert torch.equal(inputs["w_scale"], scales)
    renewal.restore()
    assert torch.equal(inputs["w"], before)


@pytest.mark.parametrize("problem", smoke_problems(), ids=lambda problem: f"{problem.family}-{problem.id}")
def test_inputs_of_every_family_stay_finite_and_come_back(problem: Problem) -> None:
    problem = problem.cut()
    inputs = problem.make_inputs(0, "cpu")
    before = {name: tensor.clone() for name, tensor in inputs.items()}
    renewal = Renewal(problem, inputs)
    renewal.renew(1)
    for name, tensor in inputs.items():
        assert torch.equal(tensor.float().abs(), before[name].float().abs()) or not tensor.is_floating_point()
    renewal.restore()
    assert all(torch.equal(inputs[n].view(torch.uint8), before[n].view(torch.uint8)) for n in inputs)


@pytest.mark.parametrize("dtype", UNSIGNED_ZERO)
def test_a_zero_that_has_no_sign_stays_what_it_is(dtype: Any) -> None:
    problem = Gather(4, 40, cache_dtype="float8_e4m3fnuz", kv_scale=0.021)
    inputs = problem.make_inputs(0, "cpu")
    inputs["cache"] = inputs["cache"].float().masked_fill(inputs["cache"].float().abs() < 0.3, 0.0).to(dtype)
    before = inputs["cache"].float()
    renewal = Renewal(problem, inputs)
    for seed in (1, 2):
        renewal.renew(seed)
        now = inputs["cache"].float()
        assert torch.equal(now.abs(), before.abs())
        assert 0.49 < float((now != before).float().mean() / (before != 0).float().mean()) < 0.51
    renewal.restore()
    assert torch.equal(inputs["cache"].float(), before)


STAYS = {"positions"}
"""Indices that tell no more than which rows of a table are read, and these change."""


@pytest.mark.parametrize("problem", all_problems(), ids=lambda problem: f"{problem.family}-{problem.id}")
def test_what_no_plan_may_read_is_other_in_every_timed_call(problem: Problem) -> None:
    inputs, generator = problem.make_inputs(0, "cpu"), torch.Generator().manual_seed(1)
    before = {name: tensor.clone() for name, tensor in inputs.items()}
    Renewal(problem, inputs).renew(1)
    for _ in range(3):  # of a few rows one may be drawn again
        problem.redraw(inputs, generator)
        for edit in problem.edits(inputs, generator):
            edit.apply(inputs)
    same = {n for n, t in inputs.items() if torch.equal(t.view(torch.uint8), before[n].view(torch.uint8))}
    assert same <= {*problem.plan_inputs, *problem.updated_rows(inputs), *STAYS}
