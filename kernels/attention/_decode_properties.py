"""What must hold between outputs of paged decode, whoever computes them, and random problems to try it on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..problem import Inputs, Outputs
from ..property import Derived, PropertySuite, with_far_scores
from ._decode_cases import CACHES, COMMON, any_lengths, builder, packed, random_fields, same, taken, tokens_of
from ._decode_problem import PagedDecode

if TYPE_CHECKING:
    import torch

    from ..device import Device


def problems(device: Device, tiny: bool) -> Any:
    """Random problems, off the sweep: odd batches and head counts, lengths of 1 to a few hundred, any page size."""
    from hypothesis import strategies as st

    return st.builds(
        builder(PagedDecode),
        seq_len_q=st.sampled_from(range(1, 3 if tiny else 5)),
        seq_len_kv=st.sampled_from(range(1, 41 if tiny else 400)),
        **random_fields(device, tiny),
    )


def shift(problem: PagedDecode, inputs: Inputs, generator: torch.Generator) -> Derived:
    """A constant added to every value shifts `out` by it; one added to every key shifts `lse` by scale * q . it.

    Of the keys' last column that is most of the shift, up for every other head and down for the rest.
    """
    import torch

    step, most = (1 / 4, 1.75) if problem.is_fp8 else (1 / 16, 4.0)  # sums of two such values are exact
    plain, shifted, constants = {}, {}, {}
    for name, stored_scale in zip(CACHES, (problem.k_scale, problem.v_scale), strict=True):
        cache = inputs[name]
        drawn = torch.randint(-round(most / step), round(most / step) + 1, cache.shape[2:], generator=generator)
        constant = (drawn * step).to(cache.device)  # [num_kv_heads, head_dim]
        coarse = ((cache.float() * stored_scale / step).round() * step).clamp(-most, most)
        if name == "k_cache":
            coarse[..., -1], constant[:, -1] = 0.0, most
        plain[name], shifted[name] = coarse.to(cache.dtype), (coarse + constant).to(cache.dtype)
        constants[name] = constant.double().repeat_interleave(problem.group, 0)  # [num_heads, head_dim]
    out_shift = problem.v_scale * constants["v_cache"]
    q = with_far_scores(inputs["q"], problem.softmax_scale * problem.k_scale * most)
    products = (q.double() * constants["k_cache"]).sum(-1)
    lse_shift = problem.softmax_scale * problem.k_scale * products

    def relate(base: Outputs, derived: Sequence[Outputs]) -> tuple[Outputs, Outputs]:
        before, after = derived
        seen = torch.isfinite(before["lse"])[..., None]
        return after, {"out": before["out"] + out_shift.float() * seen, "lse": before["lse"] + lse_shift.float()}

    return Derived(((problem, {**inputs, "q": q, **plain}), (problem, {**inputs, "q": q, **shifted})), relate)


def token_order(problem: PagedDecode, inputs: Inputs, generator: torch.Generator) -> Derived | None:
    """The tokens of a sequence in another order change nothing for a single query, which sees them all."""
    import torch

    if problem.seq_len_q > 1:
        return None
    orders = [torch.randperm(n, generator=generator).to(inputs["q"].device) for n in inputs["seq_lens"].tolist()]
    mixed = taken(tokens_of(inputs), lambda b, rows: rows[orders[b]])
    return Derived((packed(problem, inputs, mixed, generator),), same)


def tokens_twice(problem: PagedDecode, inputs: Inputs, generator: torch.Generator) -> Derived | None:
    """Every token twice leaves `out` as it is and adds ln 2 to `lse`, for a single query."""
    if problem.seq_len_q > 1:
        return None
    doubled = taken(tokens_of(inputs), lambda b, rows: rows.repeat_interleave(2, 0))
    return Derived(
        (packed(problem, inputs, doubled, generator),),
        lambda base, derived: (derived[0], {"out": base["out"], "lse": base["lse"] + math.log(2)}),
    )


def split_tokens(problem: PagedDecode, inputs: Inputs, generator: torch.Generator) -> Derived | None:
    """Both parts of every sequence, weighed by their `lse`, give the whole, for a single query."""
    import torch

    lengths = inputs["seq_lens"].tolist()
    if problem.seq_len_q > 1 or (min(lengths) < 2 and problem.lengths != "empties"):
        return None
    cuts = [int(torch.randint(1, max(2, n), (), generator=generator)) for n in lengths]
    tokens = tokens_of(inputs)
    parts = (taken(tokens, lambda b, rows: rows[: cuts[b]]), taken(tokens, lambda b, rows: rows[cuts[b] :]))
    return Derived(tuple(packed(problem, inputs, part, generator) for part in parts), _combined)


def _combined(base: Outputs, derived: Sequence[Outputs]) -> tuple[Outputs, Outputs]:
    import torch

    lse = torch.logaddexp(derived[0]["lse"].double(), derived[1]["lse"].double())
    weights = [torch.exp(part["lse"].double() - lse).nan_to_num(0.0)[..., None] for part in derived]
    out = sum(weight * part["out"].double() for weight, part in zip(weights, derived, strict=True))
    assert isinstance(out, torch.Tensor)
    return base, {"out": out.float(), "lse": lse.float()}


def group_order(problem: PagedDecode, inputs: Inputs, generator: torch.Generator) -> Derived | None:
    """Query heads in another order within their groups give the same outputs in that order."""
    import torch

    if problem.group == 1:
        return None
    orders = [torch.randperm(problem.group, generator=generator) for _ in range(problem.num_kv_heads)]
    heads = torch.cat([g * problem.group + order for g, order in enumerate(orders)]).to(inputs["q"].device)
    case = (problem, {**inputs, "q": inputs["q"][:, :, heads].contiguous()})
    return Derived((case,), lambda base, derived: (derived[0], {n: value[:, :, heads] for n, value in base.items()}))


def own_kv_heads(problem: PagedDecode, inputs: Inputs, generator: torch.Generator) -> Derived | None:
    """A copy of the KV head for each query head of its group changes nothing."""
    import torch

    if problem.group == 1:
        return None
    copies = {
        name: inputs[name].view(torch.uint8).repeat_interleave(problem.group, 2).view(inputs[name].dtype)
        for name in CACHES
    }
    return Derived(((replace(problem, num_kv_heads=problem.num_heads), {**inputs, **copies}),), same)


def single_query(problem: PagedDecode, inputs: Inputs, generator: torch.Generator) -> Derived | None:
    """Query i of several is the only query of a sequence that ends with it."""
    import torch

    if problem.seq_len_q == 1:
        return None
    i = int(torch.randint(0, problem.seq_len_q, (), generator=generator))
    lengths = (inputs["seq_lens"] - (problem.seq_len_q - 1 - i)).clamp_min(0)
    variant = replace(any_lengths(problem, lengths.tolist()), seq_len_q=1)
    case = (variant, {**inputs, "q": inputs["q"][:, i : i + 1].contiguous(), "seq_lens": lengths})
    return Derived((case,), lambda base, derived: (derived[0], {n: value[:, i : i + 1] for n, value in base.items()}))


OWN = (shift, token_order, tokens_twice, split_tokens, group_order, own_kv_heads, single_query)
SUITE = PropertySuite(PagedDecode, problems, {f.__name__: f for f in (*COMMON, *OWN)})
