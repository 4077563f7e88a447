"""MLA prefill: lengths, costs, and mutants that its tolerances must reject; tiers and properties, the layer's too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch.overrides import TorchFunctionMode  # noqa: E402 - after the skip

from kernels.device import Device  # noqa: E402
from kernels.discover import load_problems  # noqa: E402
from kernels.mla import _prefill_plan, prefill_flex  # noqa: E402
from kernels.mla._layer_problem import MLALayer  # noqa: E402
from kernels.mla._prefill_problem import LENGTHS, MLAPrefill  # noqa: E402
from kernels.mla.layer_reference import layer  # noqa: E402
from kernels.mla.prefill_reference import prefill  # noqa: E402
from kernels.mla.properties import PROPERTIES  # noqa: E402
from kernels.problem import Inputs, Outputs, Problem, Tier  # noqa: E402
from kernels.property import derive  # noqa: E402
from kernels.updates import spoil_updates, taken_updates  # noqa: E402
from suite.judge.check import compare  # noqa: E402

pytestmark = pytest.mark.side_by_side

PREFILL = MLAPrefill(batch=3, seq_len_q=40, seq_len_kv=90, num_heads=3, lengths="uniform")
LAYER = MLALayer(3, 45, hidden_size=128, num_heads=3, q_lora_rank=64, lengths="uniform", page_size=16)
H200 = Device("cuda", "sm_90", 132, 232448, 32, "float8_e4m3fn")
DEVICES = (
    H200,
    Device("cuda", "sm_80", 108, 166912, 32, None),
    Device("cuda", "sm_120", 170, 101376, 32, "float8_e4m3fn"),
    Device("hip", "gfx942", 304, 65536, 64, "float8_e4m3fnuz"),
    Device("hip", "gfx1201", 64, 65536, 32, "float8_e4m3fn"),
    Device("cpu", "x86_64", 2, 0, 1, None),
)


def rejected(problem: Problem, expected: Outputs, actual: Outputs) -> bool:
    tolerances = problem.tolerances()
    return any(compare(actual[name].float(), expected[name], tolerances[name])[1] for name in tolerances)


# Prefill.


@pytest.mark.parametrize("device", DEVICES, ids=lambda device: device.arch)
def test_blocks_of_queries_suit_their_number(device: Device) -> None:
    long = MLAPrefill(1, 8192, 8192, 16)
    chunk, few = replace(long, seq_len_q=512, num_heads=4), replace(long, batch=64, seq_len_q=33, seq_len_kv=33)
    plans = [_prefill_plan.plan(problem, {}, device) for problem in (long, chunk, few)]
    assert plans[0].block_m >= plans[1].block_m
    assert max(plan.block_m for plan in plans[1:]) <= 64
    if device.warp_size > 1 and device.arch != "gfx1201":
        assert {plan.num_warps for plan in plans[1:]} == {4}
    for problem, plan in zip((long, chunk, few), plans, strict=True):
        assert plan.num_tiles >= problem.batch * -(-problem.seq_len_q // plan.block_m)


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("batch", [1, 2, 7])
def test_sequences_have_no_more_new_tokens_than_tokens(lengths: str, batch: int) -> None:
    problem = MLAPrefill(batch, 33, 100, 2, lengths)
    found = problem.sequence_lengths()
    assert len(found) == batch
    assert all(0 <= new_tokens <= tokens for new_tokens, tokens in found)
    assert max(new_tokens for new_tokens, _ in found) <= 33
    assert max(tokens - new_tokens for new_tokens, tokens in found) <= 67
    assert problem.total_q >= 1
    shapes = {name: tuple(t.shape) for name, t in problem.make_inputs(0, "meta").items()}
    assert shapes == {name: tuple(t.shape) for name, t in problem.make_inputs(0, "cpu").items()}
    if lengths == "empties" and batch == 7:
        assert {0, 1, 33} == {new_tokens for new_tokens, _ in found}


def test_prefill_is_attention_of_every_query_to_what_came_before() -> None:
    inputs = PREFILL.make_inputs(3, "cpu")
    out, lse, q_start, kv_start = [], [], 0, 0
    for new_tokens, tokens in PREFILL.sequence_lengths():
        for i in range(new_tokens):
            seen = slice(kv_start, kv_start + tokens - new_tokens + i + 1)
            q, k, v = inputs["q"][q_start + i].double(), inputs["k"][seen].double(), inputs["v"][seen].double()
            scores = (k * q).sum(-1) * PREFILL.softmax_scale  # [tokens, heads]
            lse.append(torch.logsumexp(scores, 0))
            out.append((torch.softmax(scores, 0)[..., None] * v).sum(0))
        q_start, kv_start = q_start + new_tokens, kv_start + tokens
    outputs = prefill(inputs, PREFILL)
    torch.testing.assert_close(outputs["out"], torch.stack(out).float(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(outputs["lse"], torch.stack(lse).float(), rtol=1e-5, atol=1e-5)


def test_prefill_counts_what_is_seen() -> None:
    inputs = PREFILL.make_inputs(0, "cpu")
    seen = sum(tokens - n + i + 1 for n, tokens in PREFILL.sequence_lengths() for i in range(n))
    cost = PREFILL.cost(inputs)
    assert cost.flops == 2 * seen * PREFILL.num_heads * (192 + 128)
    assert cost.cold_read_bytes == 0
    assert cost.write_bytes == PREFILL.total_q * 3 * (128 * 2 + 4)
    held = sum(t.nbytes for name, t in inputs.items() if not name.startswith("cu_"))
    assert PREFILL.memory_bytes() == held + cost.write_bytes


def test_shorter_context_leaves_every_query_its_place() -> None:
    inputs = PREFILL.make_inputs(0, "cpu")
    before = inputs["cu_seqlens_kv"].diff()
    assert PREFILL.shorten(inputs, torch.Generator().manual_seed(1))
    shorter = inputs["cu_seqlens_kv"].diff()
    assert bool((shorter <= before).all())
    assert bool((shorter < before).any())
    assert bool((shorter >= inputs["cu_seqlens_q"].diff()).all())
    whole = replace(PREFILL, seq_len_kv=PREFILL.seq_len_q)
    assert not whole.shorten(whole.make_inputs(0, "cpu"), torch.Generator())


@pytest.mark.parametrize("device", DEVICES, ids=lambda device: device.arch)
def test_the_grid_of_prefill_has_a_program_for_every_tile(device: Device) -> None:
    for problem in (PREFILL, replace(PREFILL, lengths="empties", batch=8), *tier("prefill", Tier.FULL)):
        plan = _prefill_plan.plan(problem, problem.make_inputs(0, "meta"), device)
        tiles = sum(-(-new_tokens // plan.block_m) for new_tokens, _ in problem.sequence_lengths())
        assert tiles <= plan.num_tiles < tiles + problem.batch + 1
        assert 1 <= plan.heads_at_once <= problem.num_heads


def causal_from_the_first_token(inputs: Inputs) -> Outputs:
    """Right without context only."""
    starts, q_starts = inputs["cu_seqlens_kv"], inputs["cu_seqlens_q"]
    parts = []
    for b, new_tokens in enumerate(q_starts.diff().tolist()):
        own = slice(int(starts[b]), int(starts[b]) + new_tokens)
        ends = torch.tensor([0, new_tokens], dtype=torch.int32)
        one = {"q": inputs["q"][q_starts[b] : q_starts[b + 1]], "k": inputs["k"][own], "v": inputs["v"][own]}
        parts.append(prefill({**one, "cu_seqlens_q": ends, "cu_seqlens_kv": ends}, PREFILL))
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def neighbours_token(inputs: Inputs) -> Outputs:
    starts = inputs["cu_seqlens_kv"].clone()
    starts[1:-1] += 1
    return prefill({**inputs, "cu_seqlens_kv": starts}, PREFILL)


def one_token_short(inputs: Inputs) -> Outputs:
    """Every query but each sequence's first misses itself."""
    rolled = {name: inputs[name].roll(1, 0) for name in ("k", "v")}
    return prefill({**inputs, **rolled}, PREFILL)


PREFILL_MUTANTS: dict[str, Callable[[Inputs], Outputs]] = {
    "mask dropped": lambda inputs: {**prefill(inputs, PREFILL), "out": all_seen(inputs)},
    "causal from the first token": causal_from_the_first_token,
    "the neighbour's token": neighbours_token,
    "one token short": one_token_short,
    "wrong scale": lambda inputs: prefill(inputs, replace(PREFILL, softmax_scale=PREFILL.softmax_scale * 1.02)),
    "heads swapped": lambda inputs: {name: value.flip(1) for name, value in prefill(inputs, PREFILL).items()},
    "rope columns first": lambda inputs: prefill({**inputs, "k": inputs["k"].roll(64, -1)}, PREFILL),
    "base-2 lse": lambda inputs: {**prefill(inputs, PREFILL), "lse": prefill(inputs, PREFILL)["lse"] / 0.6931},
}


def all_seen(inputs: Inputs) -> Any:
    """Every query attends to all tokens of its sequence."""
    out, q_start, kv_start = [], 0, 0
    for n, tokens in PREFILL.sequence_lengths():
        q, own = inputs["q"][q_start : q_start + n].float(), slice(kv_start, kv_start + tokens)
        scores = torch.einsum("qhd,khd->hqk", q, inputs["k"][own].float()) * PREFILL.softmax_scale
        out.append(torch.einsum("hqk,khd->qhd", scores.softmax(-1), inputs["v"][own].float()))
        q_start, kv_start = q_start + n, kv_start + tokens
    return torch.cat(out)


@pytest.mark.parametrize("name", PREFILL_MUTANTS)
def test_mutants_of_prefill_are_rejected(name: str) -> None:
    inputs = PREFILL.make_inputs(7, "cpu")
    expected = prefill(inputs, PREFILL)
    assert not rejected(PREFILL, expected, expected)
    assert rejected(PREFILL, expected, PREFILL_MUTANTS[name](inputs))


def test_the_mask_for_flex_attention_is_the_one_of_the_maths() -> None:
    inputs = PREFILL.make_inputs(0, "cpu")
    plan = prefill_flex.plan(PREFILL, {name: inputs[name] for name in PREFILL.plan_inputs}, H200)
    query, token = torch.arange(PREFILL.total_q)[:, None], torch.arange(PREFILL.total_kv)
    seen = plan.block_mask.mask_mod(0, 0, query, token)
    counts = [tokens - n + i + 1 for n, tokens in PREFILL.sequence_lengths() for i in range(n)]
    assert seen.sum(1).tolist() == counts
    first = [int(start) for start, n in zip(inputs["cu_seqlens_kv"], inputs["cu_seqlens_q"].diff(), strict=False)
             for _ in range(int(n))]  # fmt: skip
    assert seen.int().argmax(1).tolist() == first


# Both.


def tier(task: str, which: Tier) -> list[Any]:
    return [problem for problem in load_problems("mla")[0][which] if problem.task == task]


@pytest.mark.parametrize("task", ["prefill", "layer"])
def test_each_tier_has_problems_that_fit(task: str) -> None:
    assert all(tier(task, which) for which in Tier)
    assert all(problem.memory_bytes() <= 24 * 10**9 for problem in tier(task, Tier.CI))
    for problem in tier(task, Tier.CI):
        assert sum(t.nbytes for t in problem.make_inputs(0, "meta").values()) <= problem.memory_bytes() * 1.01


@pytest.mark.parametrize(("task", "reference"), [("prefill", prefill), ("layer", layer)])
def test_properties_hold_for_the_reference_and_keep_to_its_shapes(task: str, reference: Any) -> None:
    suite = PROPERTIES[task]
    told = set()
    problems: list[Problem] = [PREFILL, replace(PREFILL, lengths="empties", batch=4)] if task == "prefill" else [LAYER]
    for problem in problems:
        inputs = problem.make_inputs(3, "cpu")
        before = {name: tensor.clone() for name, tensor in inputs.items()}

        def run(case: Any, tensors: Inputs) -> Outputs:
            own = {name: tensor.clone() for name, tensor in tensors.items()}
            spoil_updates(case, own)
            return {n: value.float() for n, value in (reference(own, case) | taken_updates(case, own)).items()}

        for name in suite.properties:
            derived = derive(suite, name, problem, inputs, 5)
            assert all(torch.equal(inputs[n], before[n]) for n in inputs), name
            if derived is None:
                continue
            told.add(name)
            for case, tensors in derived.cases:
                assert set(tensors) == set(inputs)
                assert all(tensor.is_contiguous() for tensor in tensors.values()), name
                outputs = run(case, tensors)
                assert {n: tuple(t.shape) for n, t in outputs.items()} == {
                    n: spec.shape for n, spec in case.output_specs().items()
                }, name
            left, right = derived.relate(run(problem, inputs), [run(case, tensors) for case, tensors in derived.cases])
            assert not rejected(problem, right, left), name
    assert told == set(suite.properties)


class _WrittenOnce(TorchFunctionMode):
    """Refuses to write one row of a tensor twice: which of the two stays is not said."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.__setitem__ and isinstance(args[1], torch.Tensor) and args[1].dtype != torch.bool:
            assert len(args[1].unique()) == args[1].numel()
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", PROPERTIES["prefill"].properties)
@pytest.mark.parametrize("context", [0, 5])
def test_sequences_without_tokens_leave_what_is_derived_certain(name: str, context: int) -> None:
    problem = MLAPrefill(batch=7, seq_len_q=9, seq_len_kv=9 + context, num_heads=2, lengths="empties")
    inputs = problem.make_inputs(3, "cpu")
    with _WrittenOnce():
        assert derive(PROPERTIES["prefill"], name, problem, inputs, 5) is not None
