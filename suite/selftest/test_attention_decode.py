"""Paged decode and tree attention: lengths, costs, masks and edits mean what they say, and mutants are rejected."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings  # noqa: E402 - after the skip
from hypothesis import strategies as st  # noqa: E402

from kernels.attention import _decode_problem, _tree_problem, decode_split_kv  # noqa: E402
from kernels.attention import _decode_split_kv_plan as split_kv  # noqa: E402
from kernels.attention._decode_problem import FP8_SCALES, PagedDecode  # noqa: E402
from kernels.attention._tree_inputs import drawn_parents, tree_mask  # noqa: E402
from kernels.attention._tree_problem import TreeDecode  # noqa: E402
from kernels.attention.decode_flashinfer_xqa import packed_mask  # noqa: E402
from kernels.attention.decode_reference import decode  # noqa: E402
from kernels.attention.properties import PROPERTIES  # noqa: E402
from kernels.device import Device  # noqa: E402
from kernels.lengths import LENGTHS, drawn_lengths, most  # noqa: E402
from kernels.mla.problem import MLADecode  # noqa: E402
from kernels.problem import Inputs, Outputs, Tier, Tolerance  # noqa: E402
from kernels.property import derive  # noqa: E402
from suite.judge.check import compare  # noqa: E402

pytestmark = pytest.mark.side_by_side

CPU = Device("cpu", "x86_64", 2, 0, 1, None)
H200 = Device("cuda", "sm_90", 132, 232448, 32, "float8_e4m3fn")
MI300X = Device("hip", "gfx942", 304, 65536, 64, "float8_e4m3fnuz")
L40S = Device("cuda", "sm_89", 142, 101376, 32, "float8_e4m3fn")
TIGHT = Tolerance(rtol=1e-4, atol=1e-4, relative_rms=1e-4)
DECODE = PagedDecode(3, 2, 333, 12, 4, head_dim=64, lengths="uniform", softmax_scale=0.125)
FP8 = replace(DECODE, kv_dtype="float8_e4m3fn", **FP8_SCALES)
TREE = TreeDecode(2, 9, 150, 6, 2, head_dim=64, lengths="uniform", softmax_scale=0.125)
WIDE = PagedDecode(4, 1, 4096, 8, 8, head_dim=256)
WIDE_TREE = TreeDecode(4, 1, 4096, 8, 8, head_dim=256)
PARTS = (_decode_problem, _tree_problem)
HARD_CASES = [problem for part in PARTS for problem in part.HARD_CASES]
PROBLEMS = {tier: [problem for part in PARTS for problem in part.PROBLEMS[tier]] for tier in Tier}
EVERY = (*HARD_CASES, *PROBLEMS[Tier.SMOKE])


def faults(problem: PagedDecode, expected: Outputs, actual: Outputs) -> list[str]:
    """What the referee would say of outputs once they are rounded to the dtypes that the problem declares."""
    found = []
    for name, spec in problem.output_specs().items():
        rounded = actual[name].to(getattr(torch, spec.dtype)).float()
        found.append(compare(rounded, expected[name], problem.tolerances()[name])[1])
    return [fault for fault in found if fault]


def mutants_of(problem: PagedDecode, inputs: Inputs) -> dict[str, Outputs]:
    expected, lengths = decode(inputs, problem), inputs["seq_lens"]
    whole_pages = -(-lengths // problem.page_size) * problem.page_size
    caches = {name: inputs[name].view(torch.uint8) for name in ("k_cache", "v_cache")}

    def with_inputs(**changed: Any) -> Outputs:
        return decode({**inputs, **changed}, problem)

    return {
        "off by one page": with_inputs(block_table=inputs["block_table"].roll(1, dims=1)),
        "mask dropped": with_inputs(seq_lens=whole_pages),
        "one token short": with_inputs(seq_lens=lengths - 1),
        "wrong scale": decode(inputs, replace(problem, softmax_scale=problem.softmax_scale * 1.02)),
        "heads swapped": {name: output.flip(2) for name, output in expected.items()},
        "KV heads swapped": with_inputs(**{n: c.flip(2).view(inputs[n].dtype) for n, c in caches.items()}),
        "offsets swapped within pages": with_inputs(
            v_cache=caches["v_cache"].flip(1).contiguous().view(inputs["v_cache"].dtype)
        ),
        "sequences swapped": {name: output.flip(0) for name, output in expected.items()},
    }


@pytest.mark.parametrize("problem", [DECODE, FP8, TREE], ids=["decode", "fp8", "tree"])
def test_mutants_of_attention_are_rejected(problem: PagedDecode) -> None:
    inputs = problem.make_inputs(7, "cpu")
    expected = decode(inputs, problem)
    assert not faults(problem, expected, expected)
    accepted = [name for name, actual in mutants_of(problem, inputs).items() if not faults(problem, expected, actual)]
    assert not accepted


def test_mutants_of_scales_are_rejected_by_attention_over_an_8_bit_cache() -> None:
    inputs = FP8.make_inputs(7, "cpu")
    expected = decode(inputs, FP8)
    for k_scale, v_scale in ((1.0, FP8.v_scale), (FP8.k_scale, 1.0), (FP8.v_scale, FP8.k_scale)):
        assert faults(FP8, expected, decode(inputs, replace(FP8, k_scale=k_scale, v_scale=v_scale)))


def test_mutants_of_one_tree_edge_are_rejected_by_attention() -> None:
    """One ancestor too many or too few, for one draft."""
    inputs = TREE.make_inputs(7, "cpu")
    expected = decode(inputs, TREE)
    for row, column in ((8, 0), (5, 3), (3, 5), (4, 4)):
        mask = inputs["tree_mask"].clone()
        mask[row, column] ^= True
        assert faults(TREE, expected, decode({**inputs, "tree_mask": mask}, TREE)), (row, column)


def test_attention_is_what_a_loop_over_tokens_gives() -> None:
    for problem in (replace(DECODE, batch=2, seq_len_kv=21), replace(FP8, batch=1, seq_len_kv=9), TREE):
        inputs = problem.make_inputs(3, "cpu")
        expected = decode(inputs, problem)
        b, h = problem.batch - 1, problem.num_heads - 1
        length, page_size = int(inputs["seq_lens"][b]), problem.page_size
        for i in range(problem.seq_len_q):
            scores, values = [], []
            for token in range(length):
                own = token - (length - problem.seq_len_q)
                if own > i if problem.task == "decode" else own >= 0 and not inputs["tree_mask"][i, own]:
                    continue
                page = int(inputs["block_table"][b, token // page_size])
                at = (page, token % page_size, h // (problem.num_heads // problem.num_kv_heads))
                key, value = (inputs[name][page, at[1]].double()[at[2]] for name in ("k_cache", "v_cache"))
                scores.append(problem.softmax_scale * problem.k_scale * inputs["q"][b, i, h].double() @ key)
                values.append(problem.v_scale * value)
            weights = torch.softmax(torch.stack(scores), 0)
            torch.testing.assert_close(expected["out"][b, i, h].double(), weights @ torch.stack(values), rtol=1e-4,
                                       atol=1e-5)  # fmt: skip
            assert float(expected["lse"][b, i, h]) == pytest.approx(float(torch.logsumexp(torch.stack(scores), 0)))


@pytest.mark.parametrize("problem", EVERY, ids=lambda problem: problem.id)
def test_cost_is_that_of_a_naive_count(problem: PagedDecode) -> None:
    inputs = problem.make_inputs(1, "cpu")
    slots, pairs = set(), 0
    for b, length in enumerate(inputs["seq_lens"].tolist()):
        for token in range(length):
            page = int(inputs["block_table"][b, token // problem.page_size])
            slots.add((page, token % problem.page_size))
            own = token - (length - problem.seq_len_q)
            if problem.task == "tree":
                pairs += int(inputs["tree_mask"][:, own].sum()) if own >= 0 else problem.seq_len_q
            else:
                pairs += sum(own <= i for i in range(problem.seq_len_q))
    cost = problem.cost(inputs)
    row_bytes = problem.num_kv_heads * problem.head_dim * inputs["k_cache"].element_size()
    assert cost.cold_read_bytes == len(slots) * 2 * row_bytes
    assert cost.flops == 4 * pairs * problem.num_heads * problem.head_dim
    outputs = decode(inputs, problem)
    sizes = {"out": inputs["q"].element_size(), "lse": 4}
    assert cost.write_bytes == sum(value.numel() * sizes[name] for name, value in outputs.items())
    held = sum(tensor.numel() * tensor.element_size() for tensor in inputs.values())
    assert problem.memory_bytes() >= held + cost.write_bytes - 64  # of its mean, where pages are not all drawn


def test_ci_problems_fit_24_gb_and_the_sweep_passes_2_to_the_31() -> None:
    assert max(problem.memory_bytes() for problem in PROBLEMS[Tier.CI]) < 24e9
    longest = [p for p in PROBLEMS[Tier.FULL] if isinstance(p, PagedDecode)]
    assert max(p.batch * p.max_seq_len * p.num_kv_heads * p.head_dim for p in longest) > 2**31
    assert max(p.seq_len_kv for p in longest) == 131072


@given(st.sampled_from(LENGTHS), st.integers(1, 40), st.integers(1, 500), st.integers(1, 64))
def test_lengths_keep_their_bounds(lengths: str, batch: int, seq_len_kv: int, least: int) -> None:
    least = min(least, seq_len_kv)
    drawn = drawn_lengths(lengths, batch, seq_len_kv, least)
    assert drawn == drawn_lengths(lengths, batch, seq_len_kv, least)
    assert len(drawn) == batch
    assert max(drawn) <= most(lengths, seq_len_kv)
    assert all(n >= least or (n == 0 and lengths == "empties") for n in drawn)


@given(st.integers(1, 70), st.integers(0, 1000))
def test_a_tree_mask_holds_each_node_and_its_ancestors(num_nodes: int, seed: int) -> None:
    parents = drawn_parents(num_nodes, torch.Generator().manual_seed(seed))
    mask = tree_mask(parents)
    assert parents[0] == -1
    assert parents == sorted(parents)
    assert all(0 <= parent < node for node, parent in enumerate(parents) if node)
    for node in range(num_nodes):
        ancestors, at = {node}, node
        while parents[at] >= 0:
            at = parents[at]
            ancestors.add(at)
        assert set(mask[node].nonzero().flatten().tolist()) == ancestors


@given(st.integers(1, 70), st.integers(0, 1000))
def test_a_packed_mask_has_each_bit_at_its_place(n: int, seed: int) -> None:
    seen = torch.rand((n, n), generator=torch.Generator().manual_seed(seed)) < 0.5
    words = packed_mask(seen).view(torch.int16).int() & 0xFFFF
    bits = (words[:, :, None] >> torch.arange(16)) & 1
    assert torch.equal(bits.flatten(1)[:, :n].bool(), seen)
    assert int(bits.flatten(1)[:, n:].sum()) == 0


@pytest.mark.parametrize("problem", [DECODE, FP8, TREE], ids=["decode", "fp8", "tree"])
def test_what_was_kept_of_an_edited_cache_is_wrong(problem: PagedDecode) -> None:
    inputs = problem.make_inputs(5, "cpu")
    before = {name: tensor.clone() for name, tensor in inputs.items()}
    generator = torch.Generator().manual_seed(11)
    problem.redraw(inputs, generator)
    edits = problem.edits(inputs, generator)
    assert {edit.name for edit in edits} == {"k_cache", "v_cache"}
    undo = [edit.apply(inputs) for edit in edits]
    expected = decode(inputs, problem)
    for stale in ({"k_cache": before["k_cache"]}, {"v_cache": before["v_cache"]}):
        wrong = decode({**inputs, **stale}, problem)["out"]
        allowed = problem.tolerances()["out"].relative_rms * expected["out"].square().mean().sqrt()
        differs = (wrong - expected["out"]).square().mean((1, 3)).sqrt() > 3 * allowed
        assert bool(differs.view(problem.batch, problem.num_kv_heads, -1).any(2).all())  # in every sequence and KV head
    for edit in undo:
        edit.apply(inputs)
    assert all(torch.equal(inputs[n].view(torch.uint8), before[n].view(torch.uint8)) for n in inputs if n != "q")


@pytest.mark.parametrize(
    ("task", "name"), [(task, name) for task in ("decode", "tree") for name in PROPERTIES[task].properties]
)
def test_a_property_of_attention_holds_for_the_reference(task: str, name: str) -> None:
    told: list[bool] = []
    suite = PROPERTIES[task]

    @settings(max_examples=6, derandomize=True, database=None, deadline=None)
    @given(suite.problems(CPU, True), st.sampled_from(suite.problem_class.distributions), st.integers(0, 2**32))
    def holds(problem: PagedDecode, distribution: str, seed: int) -> None:
        inputs = problem.make_inputs(seed, "cpu", distribution)
        before = {key: value.clone() for key, value in inputs.items()}
        derived = derive(suite, name, problem, inputs, seed)
        assert all(torch.equal(inputs[n].view(torch.uint8), before[n].view(torch.uint8)) for n in inputs)
        if derived is None:
            return
        told.append(True)
        for case, tensors in derived.cases:
            assert tuple(tensors["block_table"].shape) == (case.batch, case.max_pages)
            assert tensors["seq_lens"].tolist() == [min(n, case.max_seq_len) for n in tensors["seq_lens"].tolist()]
        sides = derived.relate(decode(inputs, problem), [decode(tensors, case) for case, tensors in derived.cases])
        for output in problem.output_specs():
            _, fault = compare(sides[0][output], sides[1][output], TIGHT)
            assert fault is None, f"{problem.id}: {output}: {fault}"

    holds()
    assert told


@pytest.mark.parametrize("scale", [0.0, -0.1])
def test_a_scale_that_turns_scores_around_is_refused(scale: float) -> None:
    """Kernels take the maximum of scores before they are scaled."""
    with pytest.raises(ValueError, match=r"must be positive\.$"):
        replace(DECODE, softmax_scale=scale)
    with pytest.raises(ValueError, match=r"must be positive\.$"):
        MLADecode(1, 1, 64, 16, softmax_scale=scale)


@pytest.mark.parametrize("device", [H200, MI300X], ids=lambda device: device.arch)
def test_every_problem_has_a_launch_that_covers_it(device: Device) -> None:
    for problem in (*HARD_CASES, *(p for tier in PROBLEMS.values() for p in tier)):
        if not isinstance(problem, PagedDecode) or problem.unsupported_by(device):
            continue
        plan = split_kv.plan(problem, {}, device)
        assert plan.block_h >= 16
        assert plan.num_parts == problem.batch or plan.split
        assert split_kv.padded_head_dim(problem) % plan.combine_columns == 0
        columns = problem.num_kv_heads * -(-problem.seq_len_q * problem.group // plan.block_h)
        tile = split_kv.choose_tile(problem, device)
        slots = device.num_sms * tile.programs_per_sm
        assert not plan.split or columns * plan.num_parts <= max(columns, split_kv.MOST_WAVES * slots)


@pytest.mark.parametrize("device", [H200, MI300X], ids=lambda device: device.arch)
@pytest.mark.parametrize("num_heads", [1, 12, 40, 96, 128])
@pytest.mark.parametrize("group", [1, 4])
def test_parts_fill_the_device_whatever_the_number_of_heads(num_heads: int, group: int, device: Device) -> None:
    problem = PagedDecode(3, 1, 65536, num_heads * group, num_heads)
    plan, tile = split_kv.plan(problem, {}, device), split_kv.choose_tile(problem, device)
    waves = plan.num_parts * num_heads / (device.num_sms * tile.programs_per_sm)
    assert waves >= 0.9 * math.ceil(waves)


@pytest.mark.parametrize("device", [H200, L40S, MI300X], ids=lambda device: device.arch)
@pytest.mark.parametrize("rows", [1, 12, 20, 40, 64, 100, 512])
@pytest.mark.parametrize("problem", [WIDE, replace(WIDE, head_dim=192), WIDE_TREE], ids=["256", "192", "tree"])
def test_tiles_of_wide_heads_fit_shared_memory(problem: PagedDecode, rows: int, device: Device) -> None:
    """Q, and as many buffers as stages: what wgmma takes, more than others do."""
    plan = split_kv.plan(replace(problem, seq_len_q=rows), {}, device)
    buffers = 2 * plan.num_stages if device.compute_capability == 90 else 2 * (plan.num_stages - 1)
    rows_held = plan.block_h if device.kind == "cuda" else 0  # AMD's q stays in registers
    in_use = (rows_held + buffers * plan.block_n) * split_kv.padded_head_dim(problem) * 2
    assert in_use <= device.shared_memory_bytes
    assert decode_split_kv.KERNEL.supports(replace(problem, head_dim=257), device) is not None


def test_whole_sequences_go_to_programs_that_fill_their_waves() -> None:
    def splits(batch: int, lengths: str = "equal") -> bool:
        return split_kv.plan(replace(long, batch=batch, lengths=lengths), {}, H200).split

    long = PagedDecode(64, 1, 8192, 64, 8)
    assert not splits(64)  # 512 programs of 264 at once
    assert splits(64, "uniform")
    assert splits(40)  # 320 programs: half of the second wave is idle
    assert splits(33)  # all at once: slow SMs would be waited for
    assert not splits(1000, "uniform")


def test_tiles_suit_the_tokens_of_a_program() -> None:
    problems = (PagedDecode(1, 1, 8192, 64, 8), PagedDecode(64, 1, 8192, 8, 1), PagedDecode(64, 1, 8192, 64, 8))
    tiles = [split_kv.choose_tile(problem, H200) for problem in problems]
    assert [tile.num_stages * tile.programs_per_sm for tile in tiles] == [6, 15, 8]
    for tile in tiles:  # K and V of 128 bfloat16, one buffer less than stages
        buffers = (tile.num_stages - 1) * tile.block_n * 2 * 128 * 2
        assert buffers * tile.programs_per_sm < H200.shared_memory_bytes
