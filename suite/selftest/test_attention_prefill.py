"""Attention prefill: lengths, costs and what the tolerance rejects; blocks of queries in the hand kernel's order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings  # noqa: E402 - after the skip
from hypothesis import strategies as st  # noqa: E402

from kernels import prefill_items  # noqa: E402
from kernels.attention import _prefill_choice, _prefill_plan, prefill_torch_compile  # noqa: E402
from kernels.attention._prefill_problem import HARD_CASES, PROBLEMS, AttentionPrefill  # noqa: E402
from kernels.attention._prefill_properties import PROPERTIES  # noqa: E402
from kernels.attention.prefill_reference import prefill  # noqa: E402
from kernels.device import Device  # noqa: E402
from kernels.problem import Inputs, Outputs, Tier, Tolerance  # noqa: E402
from kernels.property import derive  # noqa: E402
from suite.judge.check import compare  # noqa: E402

pytestmark = pytest.mark.side_by_side

CPU = Device("cpu", "x86_64", 2, 0, 1, None)
H200 = Device("cuda", "sm_90", 132, 232448, 32, "float8_e4m3fn")
MI300X = Device("hip", "gfx942", 304, 65536, 64, "float8_e4m3fnuz")
L40S = Device("cuda", "sm_89", 142, 101376, 32, "float8_e4m3fn")
SUITE = PROPERTIES["prefill"]
TIGHT = Tolerance(rtol=1e-4, atol=1e-4, relative_rms=1e-4)
CASE = AttentionPrefill(3, 50, 75, 6, 3, head_dim=64, window=33, lengths="uniform", return_lse=True)
SMALL = [*HARD_CASES, *PROBLEMS[Tier.SMOKE]]


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def naive(inputs: Inputs, problem: AttentionPrefill) -> Outputs:
    """One query and one head at a time, in float64."""
    out, lse = torch.zeros(inputs["q"].shape), torch.full(inputs["q"].shape[:2], float("-inf"))
    row = first_key = 0
    for num_queries, num_keys in problem.sequences():
        for i in range(num_queries):
            position = num_keys - num_queries + i
            seen = [j for j in range(num_keys) if is_seen(problem, position, j)]
            for head in range(problem.num_heads if seen else 0):
                keys = torch.tensor(seen) + first_key
                kv_head = head // (problem.num_heads // problem.num_kv_heads)
                scores = inputs["k"][keys, kv_head].double() @ inputs["q"][row + i, head].double()
                scores *= problem.softmax_scale
                out[row + i, head] = (scores.softmax(0) @ inputs["v"][keys, kv_head].double()).float()
                lse[row + i, head] = scores.logsumexp(0).float()
        row, first_key = row + num_queries, first_key + num_keys
    return {"out": out, "lse": lse}


def is_seen(problem: AttentionPrefill, position: int, key: int) -> bool:
    if not problem.causal:
        return True
    return key <= position and (not problem.window or key > position - problem.window)


@pytest.mark.parametrize("problem", [p for p in SMALL if p.output_specs()["out"].shape[0] < 150], ids=lambda p: p.id)
def test_the_reference_is_the_maths(problem: AttentionPrefill) -> None:
    inputs = problem.make_inputs(3, "cpu")
    expected, actual = naive(inputs, problem), prefill(inputs, problem)
    for name in problem.output_specs():
        assert compare(actual[name], expected[name], TIGHT)[1] is None, name


@pytest.mark.parametrize("problem", SMALL, ids=lambda p: p.id)
def test_costs_are_those_of_a_naive_count(problem: AttentionPrefill) -> None:
    pairs = sum(
        is_seen(problem, n_kv - n_q + i, j)
        for n_q, n_kv in problem.sequences()
        for i in range(n_q)
        for j in range(n_kv)
    )
    inputs = problem.make_inputs(0, "cpu")
    cost = problem.cost(inputs)
    assert cost.flops == 4 * pairs * problem.num_heads * problem.head_dim
    held = {name: tensor.nbytes for name, tensor in inputs.items() if name in problem.activations}
    outputs = prefill(inputs, problem)
    assert cost.write_bytes == held["q"] + (outputs["lse"].nbytes if problem.return_lse else 0)
    assert problem.memory_bytes() == sum(held.values()) + cost.write_bytes
    assert problem.sees_nothing == any(
        n_q and not any(is_seen(problem, n_kv - n_q, j) for j in range(n_kv)) for n_q, n_kv in problem.sequences()
    )


def test_ci_fits_its_memory_and_meta_inputs_have_the_real_shapes() -> None:
    assert max(problem.memory_bytes() for problem in PROBLEMS[Tier.CI]) < 24e9
    for problem in SMALL:
        real, meta = (problem.make_inputs(0, device) for device in ("cpu", "meta"))
        assert {n: (t.shape, t.dtype) for n, t in real.items()} == {n: (t.shape, t.dtype) for n, t in meta.items()}


def test_lengths_are_the_same_in_every_launch_and_named_ones_are_read() -> None:
    assert CASE.sequences() == replace(CASE).sequences()
    assert len(set(CASE.sequences())) == 3
    assert replace(CASE, batch=2, lengths="5x9+0x3").sequences() == [(5, 9), (0, 3)]


@pytest.mark.parametrize(
    "wrong",
    [{"num_heads": 7}, {"head_dim": 100}, {"causal": False}, {"softmax_scale": 0.0}, {"lengths": "5x9"}],
    ids=lambda fields: next(iter(fields)),
)
def test_a_problem_that_means_nothing_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"^AttentionPrefill\.({next(iter(wrong))}|window) is .*\.$"):
        replace(CASE, **wrong)


def test_shorten_gives_the_same_sequences_in_another_order() -> None:
    inputs = CASE.make_inputs(0, "cpu")
    orders = set()
    for seed in range(8):
        assert CASE.shorten(inputs, torch.Generator().manual_seed(seed))
        pairs = tuple(zip(*(inputs[name].diff().tolist() for name in CASE.plan_inputs), strict=True))
        assert sorted(pairs) == sorted(CASE.sequences())
        orders.add(pairs)
    assert len(orders) > 1
    assert not replace(CASE, lengths="equal").shorten(inputs, torch.Generator())


def mutants() -> dict[str, Callable[[Inputs], Outputs]]:
    def mask_dropped(inputs: Inputs) -> Outputs:
        return prefill(inputs, replace(CASE, causal=False, window=0))

    def window_dropped(inputs: Inputs) -> Outputs:
        return prefill(inputs, replace(CASE, window=0))

    def window_off_by_one(inputs: Inputs) -> Outputs:
        return prefill(inputs, replace(CASE, window=CASE.window + 1))

    def top_left_mask(inputs: Inputs) -> Outputs:
        lengths = inputs["cu_seqlens_q"].diff().tolist()
        firsts = inputs["cu_seqlens_kv"].tolist()
        keys = torch.cat([torch.arange(first, first + n) for first, n in zip(firsts, lengths, strict=False)])
        cut = {"k": inputs["k"][keys], "v": inputs["v"][keys], "cu_seqlens_kv": inputs["cu_seqlens_q"]}
        return prefill({**inputs, **cut}, CASE)

    def diagonal_hidden(inputs: Inputs) -> Outputs:
        shifted = {name: inputs[name].roll(1, 0) for name in ("k", "v")}
        return prefill({**inputs, **shifted}, CASE)

    def wrong_scale(inputs: Inputs) -> Outputs:
        return prefill(inputs, replace(CASE, softmax_scale=CASE.softmax_scale * 1.02))

    def heads_interleaved(inputs: Inputs) -> Outputs:
        order = torch.arange(CASE.num_heads).view(CASE.group, -1).T.flatten()
        moved = prefill({**inputs, "q": inputs["q"][:, order]}, CASE)
        return {name: value[:, order.argsort()] for name, value in moved.items()}

    def sequences_run_together(inputs: Inputs) -> Outputs:
        whole = {name: inputs[name][[0, -1]] for name in CASE.plan_inputs}
        return prefill({**inputs, **whole}, CASE)

    def lse_in_base_two(inputs: Inputs) -> Outputs:
        outputs = prefill(inputs, CASE)
        return {**outputs, "lse": outputs["lse"] * 1.4426950408889634}

    found = (mask_dropped, window_dropped, window_off_by_one, top_left_mask, diagonal_hidden, wrong_scale,
             heads_interleaved, sequences_run_together, lse_in_base_two)  # fmt: skip
    return {f.__name__: f for f in found}


@pytest.mark.parametrize("name", mutants())
def test_mutants_are_rejected(name: str) -> None:
    inputs = CASE.make_inputs(7, "cpu")
    expected, actual = prefill(inputs, CASE), mutants()[name](inputs)
    faults = [compare(actual[o], expected[o], tolerance)[1] for o, tolerance in CASE.tolerances().items()]
    assert any(faults)


@pytest.mark.parametrize("name", SUITE.properties)
def test_a_property_holds_for_the_reference(name: str) -> None:
    """Nearly exactly, so that what it says is true; and it says something about some problem."""
    told: list[bool] = []

    @settings(max_examples=12, derandomize=True, database=None, deadline=None)
    @given(SUITE.problems(CPU, True), st.sampled_from(AttentionPrefill.distributions), st.integers(0, 2**32))
    def holds(problem: AttentionPrefill, distribution: str, seed: int) -> None:
        inputs = problem.make_inputs(seed, "cpu", distribution)
        before = {key: value.clone() for key, value in inputs.items()}
        derived = derive(SUITE, name, problem, inputs, seed)
        assert all(torch.equal(inputs[key], before[key]) for key in inputs)
        if derived is None:
            return
        told.append(True)
        for case, tensors in derived.cases:
            promised = {n: (t.shape, t.dtype) for n, t in case.make_inputs(0, "meta").items()}
            assert {n: (t.shape, t.dtype) for n, t in tensors.items()} == promised
            assert all(tensor.is_contiguous() for tensor in tensors.values())
        sides = derived.relate(prefill(inputs, problem), [prefill(tensors, case) for case, tensors in derived.cases])
        for output in problem.output_specs():
            assert compare(sides[0][output], sides[1][output], TIGHT)[1] is None, f"{problem.id}: {output}"

    holds()
    assert told


@pytest.mark.parametrize("problem", SMALL, ids=lambda p: p.id)
def test_every_query_is_in_one_block_and_the_heaviest_come_first(problem: AttentionPrefill) -> None:
    inputs = problem.make_inputs(0, "cpu")
    tables = {name: inputs[name] for name in problem.plan_inputs}
    plan = _prefill_plan.plan(problem, tables, H200)
    rows = plan.block_m
    taken, work = [], []
    for sequence, block in plan.blocks.tolist():
        n_q, n_kv = problem.sequences()[sequence]
        queries = range(block * rows, min(n_q, (block + 1) * rows))
        taken += [(sequence, query) for query in queries]
        reach = range(block * rows, (block + 1) * rows)  # rows past the last query walk over the same keys
        work.append(sum(any(is_seen(problem, n_kv - n_q + i, j) for i in reach) for j in range(n_kv)))
    assert sorted(taken) == [(b, i) for b, (n_q, _) in enumerate(problem.sequences()) for i in range(n_q)]
    assert work == sorted(work, reverse=True)
    meta = problem.make_inputs(0, "meta")
    on_meta = _prefill_plan.plan(problem, {name: meta[name] for name in problem.plan_inputs}, H200)
    assert on_meta.blocks.shape == plan.blocks.shape


@pytest.mark.parametrize("window", [0, 1, 5, 33, 200])
@pytest.mark.parametrize("num_queries", [1, 16, 40])
def test_tiles_without_a_mask_are_seen_whole(window: int, num_queries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """`find_tiles` as Python reads it: every key that a block sees is walked over once, hidden ones behind a mask."""
    from kernels.attention import prefill_triton_flash as kernel

    block_m, block_n = 16, 8
    plain = SimpleNamespace(maximum=max, minimum=min, cdiv=lambda a, b: -(-a // b))
    monkeypatch.setattr(kernel, "tl", plain)
    for num_keys in (0, 1, 7, 8, 30, 41):
        problem = AttentionPrefill(1, num_queries, max(1, num_keys), 1, 1, window=window)
        for first in range(num_keys - num_queries, num_keys, block_m):
            tiles = kernel.find_tiles.fn(first, num_keys, block_m, block_n, True, window)
            start, whole_start, whole_end, end = tiles
            masked_first = range(start, whole_start, block_n) if window else range(0)
            walked = [*masked_first, *range(whole_start, whole_end, block_n), *range(whole_end, end, block_n)]
            assert walked == sorted(set(walked))
            positions = [p for p in range(first, first + block_m) if p < num_keys]
            for key in range(num_keys):
                seen_by = [is_seen(problem, position, key) for position in positions]
                is_walked = key // block_n * block_n in walked
                assert is_walked or not any(seen_by), (tiles, key)
                if whole_start <= key < whole_end:
                    assert all(seen_by), (tiles, key)


@pytest.mark.parametrize("device", [H200, MI300X, L40S], ids=lambda device: device.arch)
@pytest.mark.parametrize("head_dim", [80, 128, 192, 256])
def test_few_queries_have_small_blocks_and_wide_heads_fit(head_dim: int, device: Device) -> None:
    long = AttentionPrefill(1, 4096, 8192, 32, 8, head_dim)
    chunk, few = replace(long, seq_len_q=512, num_heads=8, num_kv_heads=1), replace(long, batch=64, seq_len_q=7)
    tiles = [_prefill_choice.choice_for(problem, device) for problem in (long, chunk, few)]
    assert [tile.block_m for tile in tiles[1:]] == [64, 64]
    assert not _prefill_plan.plan(long, long.make_inputs(0, "meta"), device).tma or head_dim in (128, 256)
    for tile in tiles:
        padded = _prefill_choice.padded_head_dim(long)
        rows_held = tile.block_m if device.kind == "cuda" else 0  # AMD's q stays in registers
        buffers = tile.num_stages if device.compute_capability == 90 else max(1, tile.num_stages - 1)
        assert (rows_held + 2 * buffers * tile.block_n) * padded * 2 <= device.shared_memory_bytes


@pytest.mark.parametrize("lengths", ["5x0+3x0", "0x5+0x2"])
def test_sequences_without_a_key_or_a_query_are_no_launch_with_tma(lengths: str) -> None:
    """TMA describes no empty tensor; the plans of both kernels know."""
    from kernels.attention import prefill_gluon_hopper

    problem = AttentionPrefill(2, 5, 5, 2, 1, lengths=lengths, return_lse=True)
    inputs = problem.make_inputs(0, "cpu")
    tables = {name: inputs[name] for name in problem.plan_inputs}
    plan = prefill_gluon_hopper.plan(problem, tables, H200)
    outputs = prefill_items.launch(inputs["q"], inputs["k"], inputs["v"], plan)
    shapes = {name: spec.shape for name, spec in problem.output_specs().items()}
    assert {name: tuple(value.shape) for name, value in outputs.items()} == shapes
    assert not outputs["out"].any()
    assert bool((outputs["lse"] == float("-inf")).all())
    assert _prefill_plan.plan(problem, tables, H200).tma == (len(inputs["k"]) > 0)


def test_naive_scores_are_refused_where_they_do_not_fit() -> None:
    assert "GB" in (prefill_torch_compile.supports(AttentionPrefill(1, 65536, 65536, 64, 8), H200) or "")
    assert prefill_torch_compile.supports(PROBLEMS[Tier.SMOKE][0], H200) is None
