"""Mixture of experts: its routing, its costs and memory, its definitions, and what plans make of a shape."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.device import Device
from kernels.discover import load_problems
from kernels.moe._experts_plan import plan
from kernels.moe._layout import aligned_rows, sorted_slots, weighted_sum
from kernels.moe._maths import route
from kernels.moe._quant import dequantize, dequantize_weight, quantize
from kernels.moe._routing import base_ids, draw_router
from kernels.moe._sort_triton import most_tiles
from kernels.moe.problem import HARD_CASES, MoEGroupedGEMM, MoELayer, MoEPermute, MoERouter, MoEUnpermute
from kernels.moe.reference import layer, permute, run
from kernels.problem import Tier

pytestmark = pytest.mark.side_by_side

H200 = Device("cuda", "sm_90", 132, 232448, 32, "float8_e4m3fn")
GB = 10**9
DEEPSEEK_ROUTER = MoERouter(200, 64, 6, "sigmoid", num_groups=8, top_groups=4, scaling_factor=2.5)
LAYER = MoELayer(24, 128, 96, 8, 3, routing="skewed")


@pytest.mark.parametrize("routing", ["uniform", "balanced", "skewed", "empties"])
def test_every_redraw_gives_some_expert_as_many_tokens(routing: str) -> None:
    problem = MoEPermute(50, 8, 12, 4, routing=routing)
    drawn = [problem.make_inputs(seed, "cpu")["topk_ids"] for seed in range(3)]
    counts = [ids.flatten().bincount(minlength=12).tolist() for ids in drawn]
    assert sorted(counts[0]) == sorted(counts[1]) == sorted(counts[2])
    assert counts[0] != counts[1], "nobody knows which"
    assert not torch.equal(drawn[0], drawn[1])
    assert all(len(set(row)) == 4 for row in drawn[0].tolist())
    assert sum(counts[0]) == 200
    if routing == "balanced":
        assert max(counts[0]) - min(counts[0]) <= 1
    if routing == "skewed":
        assert max(counts[0]) > 2 * sorted(counts[0])[6]
    assert (0 in counts[0]) == (routing == "empties")


def test_a_shard_has_as_many_tokens_in_every_draw() -> None:
    problem = MoELayer(50, 16, 8, 12, 4, routing="skewed", num_local_experts=5)
    here = [problem.make_inputs(seed, "cpu")["topk_ids"] for seed in range(3)]
    assert len({int((ids >= 0).sum()) for ids in here}) == 1
    assert max(int(ids.max()) for ids in here) < 5


def test_ends_of_experts_are_other_in_every_draw() -> None:
    problem = MoEGroupedGEMM(50, 16, 8, 12, 4, routing="skewed")
    ends = [problem.make_inputs(seed, "cpu")["expert_ends"] for seed in range(3)]
    counts = [torch.diff(e, prepend=torch.zeros(1, dtype=torch.int32)).tolist() for e in ends]
    assert sorted(counts[0]) == sorted(counts[1]) == sorted(counts[2])
    assert counts[0] != counts[1]
    assert all(int(e[-1]) == problem.rows for e in ends)


@pytest.mark.parametrize("router", ["softmax", "deepseek"])
def test_a_layer_with_a_router_has_the_same_work_in_every_draw(router: str) -> None:
    problem = MoELayer(20, 16, 8, 32, 4, router=router)
    costs = [problem.cost(problem.make_inputs(seed, "cpu")) for seed in range(3)]
    assert costs[0] == costs[1] == costs[2]


@pytest.mark.parametrize("scoring", ["softmax", "sigmoid"])
@pytest.mark.parametrize("groups", [1, 8])
def test_no_two_scores_that_decide_are_nearly_equal(scoring: str, groups: int) -> None:
    drawn = draw_router(300, 256, groups, scoring, 1.0, torch.Generator().manual_seed(5))
    scores = drawn["router_logits"].double()
    if scoring == "sigmoid":
        scores = scores.sigmoid() + drawn["correction_bias"].double()
    gaps = scores.sort(-1).values.diff(dim=-1)
    assert float(gaps.min()) > 3e-4
    sums = scores.unflatten(-1, (groups, -1)).topk(2, dim=-1).values.sum(-1)
    assert groups == 1 or float(sums.sort(-1).values.diff(dim=-1).min()) > 3e-4
    if groups == 1 and scoring == "softmax":
        assert torch.equal(scores.bfloat16().double(), scores)


def test_grouped_routing_is_what_the_model_does() -> None:
    """One token after the other, in Python's own numbers."""
    inputs = DEEPSEEK_ROUTER.make_inputs(3, "cpu")
    outputs = route(inputs, DEEPSEEK_ROUTER)
    for token in range(20):
        p = inputs["router_logits"][token].double().sigmoid().tolist()
        c = [x + b for x, b in zip(p, inputs["correction_bias"].tolist(), strict=True)]
        best = sorted(range(8), key=lambda g: -sum(sorted(c[g * 8 : g * 8 + 8])[-2:]))[:4]
        ids = sorted((e for e in range(64) if e // 8 in best), key=lambda e: -c[e])[:6]
        weights = [2.5 * p[e] / sum(p[i] for i in ids) for e in ids]
        assert outputs["ids"][token].tolist() == ids
        assert outputs["weights"][token].tolist() == pytest.approx(weights, rel=1e-5)


def test_a_layer_is_the_sum_over_each_tokens_experts() -> None:
    """One token and choice after the other; ids that are not here add nothing, the shared expert always does."""
    problem = MoELayer(9, 16, 24, 8, 3, num_local_experts=3, shared_experts=1)
    inputs = problem.make_inputs(1, "cpu")
    out = torch.zeros(9, 16, dtype=torch.float64)
    for t in range(9):
        for i in range(4):
            e = int(inputs["topk_ids"][t, i])
            if e >= 0:
                gate, up = (inputs["w13"][e].double() @ inputs["hidden"][t].double()).chunk(2)
                y = inputs["w2"][e].double() @ (gate * gate.sigmoid() * up)
                out[t] += float(inputs["topk_weights"][t, i]) * y
    assert (inputs["topk_ids"][:, :3] < 0).any()
    assert (inputs["topk_ids"][:, 3] == 3).all()
    assert torch.allclose(layer(inputs, problem)["out"].double(), out, atol=1e-4)


def test_costs_are_those_of_the_routing() -> None:
    ids = LAYER.make_inputs(0, "cpu")["topk_ids"]
    cost = LAYER.cost(LAYER.make_inputs(0, "cpu"))
    assert cost.flops == 2 * 24 * 3 * 3 * 128 * 96
    assert cost.cold_read_bytes == len(set(ids.flatten().tolist())) * 3 * 128 * 96 * 2
    assert cost.write_bytes == 24 * 128 * 2
    gemm = MoEGroupedGEMM(5, 256, 128, 16, 2, weight_dtype="float8_e4m3fn")
    inputs = gemm.make_inputs(0, "cpu")
    used = int((torch.diff(inputs["expert_ends"], prepend=torch.zeros(1, dtype=torch.int32)) > 0).sum())
    assert gemm.cost(inputs).cold_read_bytes == used * (256 * 256 + 2 * 2 * 4)
    assert gemm.cost(inputs).flops == 2 * 10 * 256 * 256


def test_memory_is_counted_and_ci_stays_within_24_gb() -> None:
    tiers, _ = load_problems("moe")
    for problem in (*tiers[Tier.CI], *HARD_CASES):
        tensors = [*problem.make_inputs(0, "meta").values()]
        tensors += [
            torch.empty(s.shape, dtype=getattr(torch, s.dtype), device="meta") for s in problem.output_specs().values()
        ]
        held = sum(t.numel() * t.element_size() for t in tensors)
        assert problem.memory_bytes() == pytest.approx(held, rel=0.02, abs=20000), problem.id
    assert all(p.memory_bytes() <= 24 * GB for p in tiers[Tier.CI])
    assert len(tiers[Tier.CI]) <= 10
    assert max(p.memory_bytes() for p in tiers[Tier.FULL]) < 100 * GB


def test_quantising_keeps_to_its_definition() -> None:
    x = torch.randn(5, 256) * torch.logspace(-3, 3, 5)[:, None]
    x[2, :128] = 0
    for dtype in (torch.float8_e4m3fn, torch.float8_e4m3fnuz):
        x8, scale = quantize(x, dtype)
        assert (x8.dtype, scale.shape) == (dtype, (5, 2))
        assert float(scale[2, 0]) == 1.0
        assert float((dequantize(x8, scale) - x).norm() / x.norm()) < 2**-4
        largest = x8.float().unflatten(-1, (2, 128)).abs().amax(-1)
        assert bool((largest[x.unflatten(-1, (2, 128)).abs().amax(-1) > 0] == torch.finfo(dtype).max).all())
    weight, scale = torch.randn(256, 384).to(torch.float8_e4m3fn), torch.rand(2, 3)
    assert float(dequantize_weight(weight, scale)[130, 300]) == float(weight[130, 300].float() * scale[1, 2])


def test_rows_are_laid_out_as_libraries_want_them() -> None:
    ids = torch.tensor([[2, 0], [2, -1], [0, 2], [4, 2]], dtype=torch.int32)
    slots, ends = sorted_slots(ids, 5)
    assert slots.tolist() == [1, 4, 0, 2, 5, 7, 6, 3]
    assert ends.tolist() == [2, 2, 6, 6, 7]
    places, owners = aligned_rows(ends, 8, 4)
    assert places[:7].tolist() == [0, 1, 4, 5, 6, 7, 8]
    assert owners.tolist()[:12] == [0, 0, -1, -1, 2, 2, 2, 2, 4, -1, -1, -1]
    assert len(owners) % 4 == 0
    weights = torch.rand(4, 2)
    y = torch.randn(8, 3)
    y[-1] = float("nan")  # of the id that is not here
    by_slot = y[slots.argsort()].view(4, 2, 3).nan_to_num(0.0)
    assert torch.allclose(weighted_sum(y, slots, ids, weights), (by_slot * weights[..., None]).sum(1))


@given(st.lists(st.integers(0, 70), min_size=1, max_size=40), st.sampled_from((16, 32, 64, 128)))
@settings(max_examples=60, derandomize=True, database=None, deadline=None)
def test_no_routing_needs_more_tiles_than_are_launched(rows: list[int], block_m: int) -> None:
    assert sum(-(-n // block_m) for n in rows) <= most_tiles(sum(rows), len(rows), block_m)


def test_plans_follow_the_shape() -> None:
    mixtral: dict[str, Any] = {"hidden_size": 4096, "intermediate_size": 14336, "num_experts": 8, "top_k": 2}
    one, few, many = (plan(MoELayer(tokens=t, **mixtral), {}, H200) for t in (1, 16, 2048))
    assert (one.direct, few.direct, many.direct) == (True, False, False)
    assert one.split_k > 1 == many.split_k
    assert one.gate_up.block_n == one.down.block_n == 64  # Qwen3's experts are too narrow for that
    assert plan(MoELayer(1, 4096, 1536, 128, 8), {}, H200).gate_up.block_n == 32
    assert one.gate_up.block_m == few.gate_up.block_m == 16 < many.gate_up.block_m
    assert (one.hopper, few.hopper, many.hopper) == (False, False, True)
    odd = plan(MoELayer(2048, 4100, 14336, 8, 2), {}, H200)
    assert not (odd.hopper and odd.fits_hopper)  # TMA wants rows of whole 16 bytes
    assert not odd.gate_up.use_tma
    newer, older = (
        plan(MoELayer(tokens=2048, **mixtral), {}, replace(H200, arch=arch)) for arch in ("sm_100", "sm_80")
    )
    assert newer.gate_up.use_tma
    assert not older.gate_up.use_tma
    assert not newer.hopper
    assert not older.hopper
    fp8 = plan(MoELayer(64, 256, 256, 8, 2, weight_dtype="float8_e4m3fn"), {}, H200)
    assert fp8.gate_up.block_n == fp8.gate_up.block_k == fp8.down.block_k == 128  # one scale for a step


def test_problems_refuse_what_they_cannot_be() -> None:
    with pytest.raises(ValueError, match="multiples of 128"):
        MoELayer(1, 192, 128, 4, 2, weight_dtype="float8_e4m3fn")
    with pytest.raises(ValueError, match="weight_dtype"):
        MoELayer(1, 128, 128, 4, 2, weight_dtype="float16")
    with pytest.raises(ValueError, match="router"):
        MoELayer(1, 128, 128, 4, 2, router="other")
    with pytest.raises(ValueError, match="draws its own routing"):
        MoELayer(1, 128, 128, 4, 2, router="softmax", routing="skewed")
    with pytest.raises(ValueError, match="8 equal groups of two"):
        MoELayer(4, 128, 128, 8, 2, router="deepseek")
    with pytest.raises(ValueError, match="groups must be equal"):
        MoERouter(1, 30, 2, num_groups=8)
    with pytest.raises(ValueError, match="bfloat16"):
        MoERouter(1, 32, 2, "sigmoid", logits_dtype="bfloat16")
    on_h200 = MoELayer(1, 128, 128, 4, 2, weight_dtype="float8_e4m3fnuz").unsupported_by(H200)
    assert on_h200 is not None
    assert "float8_e4m3fnuz" in on_h200


def test_one_reference_serves_every_task() -> None:
    for problem in (MoEPermute(6, 8, 3, 2), MoEUnpermute(6, 8, 3, 2), LAYER, DEEPSEEK_ROUTER):
        outputs = run(problem.make_inputs(0, "cpu"), problem)
        assert {name: tuple(value.shape) for name, value in outputs.items()} == {
            name: spec.shape for name, spec in problem.output_specs().items()
        }
    ids = base_ids(6, 3, 2, "uniform", "cpu")
    assert permute({"hidden": torch.zeros(6, 8), "topk_ids": ids}, MoEPermute(6, 8, 3, 2))["expert_ends"][-1] == 12
