"""What must hold between outputs of the whole MLA layer, whoever computes them, and random problems to try it on.

Every case has a cache of its own: each call writes into it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..problem import Inputs, Outputs
from ..property import Derived, PropertySuite
from ._dims import QK_HEAD_DIM, QK_NOPE_HEAD_DIM, SCALE_192, V_HEAD_DIM
from ._layer_problem import LENGTHS, MLALayer

if TYPE_CHECKING:
    import torch

    from ..device import Device

OF_SEQUENCES = ("hidden", "block_table", "seq_lens")


def problems(device: Device, tiny: bool) -> Any:
    """Random problems, off the sweep: odd batches, widths and head counts, short sequences, any page size."""
    from hypothesis import strategies as st

    return st.builds(
        MLALayer,
        batch=st.sampled_from(range(1, 6 if tiny else 40)),
        seq_len_kv=st.sampled_from(range(1, 41 if tiny else 400)),
        hidden_size=st.sampled_from(range(64, 97 if tiny else 641, 8)),
        num_heads=st.sampled_from(range(1, 3 if tiny else 9 if device.kind == "cpu" else 65)),
        q_lora_rank=st.sampled_from(range(32, 65 if tiny else 257, 8)),
        lengths=st.sampled_from(LENGTHS),
        page_size=st.sampled_from((64, 32, 16, 8, 4, 2, 1)),
        dtype=st.sampled_from(("bfloat16", "float16")),
        softmax_scale=st.sampled_from((SCALE_192, 0.03)),
        rms_norm_eps=st.sampled_from((1e-6, 1e-2)),
    )


def sequence_order(problem: MLALayer, inputs: Inputs, generator: torch.Generator) -> Derived:
    """Sequences in another order give the same outputs in that order."""
    import torch

    order = torch.randperm(problem.batch, generator=generator).to(inputs["hidden"].device)
    moved = {name: inputs[name][order].contiguous() for name in OF_SEQUENCES}
    variant = replace(problem, lengths="uniform")
    return Derived(
        (_case(variant, inputs, **moved),),
        lambda base, derived: (derived[0], {name: value[order] for name, value in base.items()}),
    )


def page_order(problem: MLALayer, inputs: Inputs, generator: torch.Generator) -> Derived:
    """Pages at other places, with the block table to match, change nothing."""
    import torch

    cache = inputs["kv_cache"]
    order = torch.randperm(len(cache), generator=generator).to(cache.device)
    table = order.argsort().int()[inputs["block_table"].long()]  # the new place of every page
    return Derived((_case(problem, inputs, kv_cache=cache[order], block_table=table),), _same)


def stale_tokens(problem: MLALayer, inputs: Inputs, generator: torch.Generator) -> Derived:
    """What lies in a sequence's last page from its new token on, before the call, changes nothing."""
    import torch

    cache = inputs["kv_cache"].clone()
    for row, length in enumerate(inputs["seq_lens"].tolist()):
        first = (length - 1) % problem.page_size
        page = cache[int(inputs["block_table"][row, (length - 1) // problem.page_size])]
        page[first:] = (torch.randn(page[first:].shape, generator=generator) * 50).to(page.device, page.dtype)
    return Derived((_case(problem, inputs, kv_cache=cache),), _same)


def one_sequence(problem: MLALayer, inputs: Inputs, generator: torch.Generator) -> Derived | None:
    """A sequence alone gives its rows of the outputs."""
    import torch

    if problem.batch < 2:
        return None
    b = int(torch.randint(problem.batch, (), generator=generator))
    own = {name: inputs[name][b : b + 1].contiguous() for name in OF_SEQUENCES}
    length = int(inputs["seq_lens"][b])
    own["block_table"] = own["block_table"][:, : math.ceil(length / problem.page_size)].contiguous()
    own["cos_sin"] = inputs["cos_sin"][:length].contiguous()
    variant = replace(problem, batch=1, seq_len_kv=length, lengths="equal")
    return Derived(
        (_case(variant, inputs, **own),),
        lambda base, derived: (derived[0], {name: value[b : b + 1] for name, value in base.items()}),
    )


def head_order(problem: MLALayer, inputs: Inputs, generator: torch.Generator) -> Derived:
    """Heads in another order, in all of their weights, change nothing."""
    import torch

    order = torch.randperm(problem.num_heads, generator=generator).to(inputs["hidden"].device)
    moved = {
        "w_q_b": inputs["w_q_b"].unflatten(0, (-1, QK_HEAD_DIM))[order].flatten(0, 1),
        "w_kv_b": inputs["w_kv_b"].unflatten(0, (-1, QK_NOPE_HEAD_DIM + V_HEAD_DIM))[order].flatten(0, 1),
        "w_o": inputs["w_o"].unflatten(1, (-1, V_HEAD_DIM))[:, order].flatten(1).contiguous(),
    }
    return Derived((_case(problem, inputs, **moved),), _same)


def value_scale(problem: MLALayer, inputs: Inputs, generator: torch.Generator) -> Derived:
    """Twice W_uv with half of W_o changes nothing; a negative W_o alone gives a negative `out`."""
    w_kv_b = inputs["w_kv_b"].clone()
    w_kv_b.unflatten(0, (-1, QK_NOPE_HEAD_DIM + V_HEAD_DIM))[:, QK_NOPE_HEAD_DIM:] *= 2
    cases = (_case(problem, inputs, w_kv_b=w_kv_b, w_o=inputs["w_o"] / 2), _case(problem, inputs, w_o=-inputs["w_o"]))

    def relate(base: Outputs, derived: Sequence[Outputs]) -> tuple[Outputs, Outputs]:
        same, negative = derived
        return {"out": same["out"] - negative["out"], "kv_cache": same["kv_cache"]}, {**base, "out": 2 * base["out"]}

    return Derived(cases, relate)


def query_scale(problem: MLALayer, inputs: Inputs, generator: torch.Generator) -> Derived:
    """Half of W_q_b with twice the softmax scale changes nothing, and neither does half of it with twice q_norm."""
    variant = replace(problem, softmax_scale=2 * problem.softmax_scale)
    half = inputs["w_q_b"] / 2
    cases = (_case(variant, inputs, w_q_b=half), _case(problem, inputs, w_q_b=half, q_norm=inputs["q_norm"] * 2))

    def relate(base: Outputs, derived: Sequence[Outputs]) -> tuple[Outputs, Outputs]:
        return {name: (derived[0][name] + derived[1][name]) / 2 for name in base}, base

    return Derived(cases, relate)


def first_position(problem: MLALayer, inputs: Inputs, generator: torch.Generator) -> Derived | None:
    """At position 0 nothing turns: a rope table of that row for all positions is right where sequences are new."""
    lengths = inputs["seq_lens"].clone().fill_(1)
    variant = replace(problem, lengths="uniform")
    still = inputs["cos_sin"][:1].expand_as(inputs["cos_sin"]).contiguous()
    cases = (_case(variant, inputs, seq_lens=lengths), _case(variant, inputs, seq_lens=lengths, cos_sin=still))
    return Derived(cases, lambda base, derived: (derived[0], derived[1]))


def new_token_only(problem: MLALayer, inputs: Inputs, generator: torch.Generator) -> Derived:
    """A sequence of one token attends to it alone, whatever its query: W_q_b of zeros gives the same."""
    lengths = inputs["seq_lens"].clone().fill_(1)
    variant = replace(problem, lengths="uniform")
    zeros = inputs["w_q_b"] * 0
    cases = (_case(variant, inputs, seq_lens=lengths), _case(variant, inputs, seq_lens=lengths, w_q_b=zeros))
    return Derived(cases, lambda base, derived: (derived[0], derived[1]))


def _case(problem: MLALayer, inputs: Inputs, **others: torch.Tensor) -> tuple[MLALayer, Inputs]:
    cache = others.pop("kv_cache", inputs["kv_cache"])
    return problem, {**inputs, **others, "kv_cache": cache.clone()}


def _same(base: Outputs, derived: Sequence[Outputs]) -> tuple[Outputs, Outputs]:
    return derived[0], base


SUITE = PropertySuite(
    MLALayer,
    problems,
    {
        f.__name__: f
        for f in (
            sequence_order, page_order, stale_tokens, one_sequence, head_order, value_scale, query_scale,
            first_position, new_token_only,
        )
    },
)  # fmt: skip
