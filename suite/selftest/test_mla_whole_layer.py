"""The whole MLA layer: its maths, what it writes, its costs, and mutants that its tolerances must reject."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from kernels.mla import _layer_inputs  # noqa: E402 - after the skip
from kernels.mla._layer_problem import WEIGHTS, MLALayer  # noqa: E402
from kernels.mla.layer_reference import layer  # noqa: E402
from kernels.problem import Inputs, Outputs, Problem  # noqa: E402
from kernels.updates import spoil_updates, taken_updates  # noqa: E402
from suite.judge.check import compare, expected_outputs  # noqa: E402

pytestmark = pytest.mark.side_by_side

LAYER = MLALayer(3, 45, hidden_size=128, num_heads=3, q_lora_rank=64, lengths="uniform", page_size=16)


def rejected(problem: Problem, expected: Outputs, actual: Outputs) -> bool:
    tolerances = problem.tolerances()
    return any(compare(actual[name].float(), expected[name], tolerances[name])[1] for name in tolerances)


def test_the_absorbed_layer_is_the_un_absorbed_one() -> None:
    """Per head: keys and values projected from every token's latent, heads of 192 and 128."""
    inputs = LAYER.make_inputs(5, "cpu")
    w = {name: inputs[name].double() for name in WEIGHTS}
    absorbed = layer(inputs, LAYER)["out"]
    cos_sin = inputs["cos_sin"][inputs["seq_lens"].long() - 1].double()
    projected = inputs["hidden"].double() @ w["w_qkv_a"].T
    c_q = projected[:, :64] / (projected[:, :64].square().mean(-1, keepdim=True) + LAYER.rms_norm_eps).sqrt()
    w_kv = w["w_kv_b"].view(3, 256, 512)
    out = []
    for b, length in enumerate(inputs["seq_lens"].tolist()):
        q = ((c_q[b] * w["q_norm"]) @ w["w_q_b"].T).view(3, 192)
        turn = torch.complex(*cos_sin[b].chunk(2))
        pairs = torch.view_as_complex(q[:, 128:].reshape(3, 32, 2).contiguous())
        q = torch.cat([q[:, :128], torch.view_as_real(pairs * turn).flatten(1)], 1)
        pages = inputs["block_table"][b, : -(-length // 16)].long()
        tokens = inputs["kv_cache"][pages].flatten(0, 1)[:length].double()
        k = torch.einsum("tl,hnl->htn", tokens[:, :512], w_kv[:, :128])
        v = torch.einsum("tl,hvl->htv", tokens[:, :512], w_kv[:, 128:])
        k = torch.cat([k, tokens[:, 512:].expand(3, -1, -1)], -1)
        p = torch.softmax(torch.einsum("hd,htd->ht", q, k) * LAYER.softmax_scale, -1)
        out.append(w["w_o"] @ torch.einsum("ht,htv->hv", p, v).flatten())
    torch.testing.assert_close(absorbed, torch.stack(out).float(), rtol=1e-4, atol=1e-5)


def test_a_call_writes_the_new_tokens_rows_alone() -> None:
    inputs = LAYER.make_inputs(5, "cpu")
    rows = LAYER.updated_rows(inputs)["kv_cache"]
    assert len(rows.unique()) == LAYER.batch
    for b, length in enumerate(inputs["seq_lens"].tolist()):
        page = int(inputs["block_table"][b, (length - 1) // 16])
        assert int(rows[b]) == page * 16 + (length - 1) % 16
    spoil_updates(LAYER, inputs)
    before = inputs["kv_cache"].flatten(0, 1).clone()
    layer(inputs, LAYER)
    after = inputs["kv_cache"].flatten(0, 1)
    changed = (before.view(torch.uint8) != after.view(torch.uint8)).any(1).nonzero()[:, 0]
    assert sorted(changed.tolist()) == sorted(rows.tolist())
    latent = after[rows, :512].float() / inputs["kv_norm"].float()
    torch.testing.assert_close(latent.square().mean(1), torch.ones(LAYER.batch), rtol=0.01, atol=0)


def test_the_layer_counts_its_weights_and_tokens() -> None:
    inputs = LAYER.make_inputs(0, "cpu")
    lengths = inputs["seq_lens"].tolist()
    cost = LAYER.cost(inputs)
    matrices = [inputs[name].numel() for name in WEIGHTS if inputs[name].dim() == 2]
    assert cost.flops == 2 * (3 * sum(matrices) + sum(lengths) * 3 * (576 + 512))
    assert cost.cold_read_bytes == sum(inputs[name].nbytes for name in WEIGHTS) + (sum(lengths) - 3) * 576 * 2
    assert cost.write_bytes == 3 * (128 + 576) * 2
    assert min(lengths) >= 1
    equal = replace(LAYER, lengths="equal")
    held = sum(t.nbytes for name, t in equal.make_inputs(0, "cpu").items() if name not in ("block_table", "seq_lens"))
    assert equal.memory_bytes() == held + 3 * 128 * 2


def test_shorter_sequences_of_the_layer_keep_their_new_token() -> None:
    inputs = LAYER.make_inputs(0, "cpu")
    before = inputs["seq_lens"].clone()
    assert LAYER.shorten(inputs, torch.Generator().manual_seed(1))
    assert bool((inputs["seq_lens"] <= before).all())
    assert int(inputs["seq_lens"].min()) >= 1
    assert not torch.equal(inputs["seq_lens"], before)


def test_what_was_kept_of_an_earlier_call_shows() -> None:
    problem = MLALayer(2, 1024, hidden_size=128, num_heads=8, q_lora_rank=96)
    inputs = problem.make_inputs(1, "cpu")
    expected = expected_outputs(problem, inputs)
    edits = problem.edits(inputs, torch.Generator().manual_seed(2))
    assert [edit.name for edit in edits] == [*WEIGHTS, "cos_sin", "kv_cache"]
    for edit in edits:
        undo = edit.apply(inputs)
        assert rejected(problem, expected_outputs(problem, inputs), expected), edit.name
        undo.apply(inputs)
    assert not rejected(problem, expected_outputs(problem, inputs), expected)
    rows = edits[-1].rows
    assert len(rows.unique()) == len(rows)
    assert not set(rows.tolist()) & set(_layer_inputs.new_rows(inputs).tolist())


def with_own_cache(inputs: Inputs, problem: MLALayer = LAYER, **others: Any) -> Outputs:
    own = {**inputs, **others, "kv_cache": inputs["kv_cache"].clone()}
    return layer(own, problem) | taken_updates(LAYER, {**own, "seq_lens": inputs["seq_lens"]})


def new_token_in_the_place_before(inputs: Inputs) -> Outputs:
    """Turned to its own position, but in place of the token before it, which is lost."""
    early = {**inputs, "seq_lens": inputs["seq_lens"] - 1}
    out = with_own_cache(early, cos_sin=inputs["cos_sin"].roll(-1, 0))["out"]
    return {**with_own_cache(inputs), "out": out}


def stale_row_attended(inputs: Inputs) -> Outputs:
    """The row that the attention reads for the new token is still empty."""
    w_qkv_a = inputs["w_qkv_a"].clone()
    w_qkv_a[64:] = 0  # the new row has no latent and no rope part
    return {**with_own_cache(inputs), "out": with_own_cache(inputs, w_qkv_a=w_qkv_a)["out"]}


def halves_turned(inputs: Inputs) -> Outputs:
    """Element i turns with i + 32 instead of its neighbour."""
    order = torch.arange(64).view(2, 32).T.flatten()
    w_q_b = inputs["w_q_b"].clone().view(3, 192, -1)
    w_q_b[:, 128:] = w_q_b[:, 128 + order]
    w_qkv_a = inputs["w_qkv_a"].clone()
    w_qkv_a[-64:] = w_qkv_a[-64:][order]
    return with_own_cache(inputs, w_q_b=w_q_b.flatten(0, 1), w_qkv_a=w_qkv_a)


def up_projections_swapped(inputs: Inputs) -> Outputs:
    return with_own_cache(inputs, w_kv_b=inputs["w_kv_b"].view(3, 2, 128, 512).flip(1).reshape(-1, 512))


LAYER_MUTANTS: dict[str, Callable[[Inputs], Outputs]] = {
    "new token in the place before": new_token_in_the_place_before,
    "stale row attended": stale_row_attended,
    "position off by one": lambda inputs: with_own_cache(inputs, cos_sin=inputs["cos_sin"].roll(1, 0)),
    "halves turned": halves_turned,
    "up projections swapped": up_projections_swapped,
    "pages off by one": lambda inputs: with_own_cache(inputs, block_table=inputs["block_table"].roll(1, 1)),
    "query latent not normalised": lambda inputs: with_own_cache(inputs, q_norm=inputs["q_norm"] * 1.05),
    "norm's weight left out": lambda inputs: with_own_cache(inputs, kv_norm=torch.ones_like(inputs["kv_norm"])),
    "wrong scale": lambda inputs: with_own_cache(inputs, replace(LAYER, softmax_scale=LAYER.softmax_scale * 1.1)),
    "another eps": lambda inputs: with_own_cache(inputs, replace(LAYER, rms_norm_eps=0.1)),
    "heads swapped": lambda inputs: with_own_cache(inputs, w_o=inputs["w_o"].view(128, 3, 128).flip(1).flatten(1)),
    "stale weights": lambda inputs: with_own_cache(inputs, w_o=LAYER.make_inputs(8, "cpu")["w_o"]),
}


@pytest.mark.parametrize("name", LAYER_MUTANTS)
def test_mutants_of_the_layer_are_rejected(name: str) -> None:
    inputs = LAYER.make_inputs(7, "cpu")
    expected = with_own_cache(inputs)
    assert not rejected(LAYER, expected, expected)
    assert rejected(LAYER, expected, LAYER_MUTANTS[name](inputs))
