"""Properties of appends with RoPE. Rows of a cache come in the order of the tokens that wrote them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..problem import Inputs, Outputs
from ..property import Derived
from ._mla_append_problem import KV_LORA_RANK, QK_ROPE_HEAD_DIM, MLAAppend
from ._rope_append_problem import RopeAppend

if TYPE_CHECKING:
    import torch

WithRope = Any
"""`RopeAppend` or `MLAAppend`: what these properties are asked of."""


def token_order(problem: WithRope, inputs: Inputs, generator: torch.Generator) -> Derived:
    """Tokens in another order leave the same rows in that order."""
    import torch

    order = torch.randperm(problem.tokens, generator=generator).to(inputs["slot_mapping"].device)
    moved = {name: inputs[name][order].contiguous() for name in _per_token(problem)}
    rank = (inputs["slot_mapping"] >= 0).cumsum(0) - 1  # of a token among those that are written
    rows = rank[order][moved["slot_mapping"] >= 0]
    return Derived(
        ((problem, {**inputs, **moved}),), lambda base, derived: (derived[0], _taken(problem, base, order, rows))
    )


def other_slots(problem: WithRope, inputs: Inputs, generator: torch.Generator) -> Derived:
    """Other places in the cache change nothing."""
    import torch

    slots = inputs["slot_mapping"]
    places = torch.randperm(problem.num_pages * problem.page_size, generator=generator)[: problem.tokens]
    moved = torch.where(slots >= 0, places.to(slots.device), slots)
    return Derived(((problem, {**inputs, "slot_mapping": moved}),), lambda base, derived: (derived[0], base))


def more_padding(problem: WithRope, inputs: Inputs, generator: torch.Generator) -> Derived | None:
    """A token that becomes padding leaves everything else as it is."""
    import torch

    if problem.written < 2:
        return None
    slots = inputs["slot_mapping"].clone()
    written = torch.nonzero(slots >= 0).flatten()
    dropped = int(torch.randint(len(written), (), generator=generator))
    slots[written[dropped]] = -1 - dropped
    kept = torch.arange(len(written), device=slots.device)
    kept = kept[kept != dropped]
    variant, every = replace(problem, padding=problem.padding + 1), torch.arange(problem.tokens, device=slots.device)
    # The sides must be as long as the base's outputs, so that the row that is missing is the base's own.
    return Derived(
        ((variant, {**inputs, "slot_mapping": slots}),),
        lambda base, derived: (_taken(problem, base, every, kept), derived[0]),
    )


def split_tokens(problem: WithRope, inputs: Inputs, generator: torch.Generator) -> Derived | None:
    """Two calls with a part of the tokens each leave what one call leaves."""
    import torch

    slots = inputs["slot_mapping"]
    written = torch.nonzero(slots >= 0).flatten()
    if len(written) < 2:
        return None
    cut = int(written[int(torch.randint(1, len(written), (), generator=generator))])
    cases = []
    for part in (slice(None, cut), slice(cut, None)):
        own = {name: inputs[name][part].contiguous() for name in _per_token(problem)}
        padding = int((own["slot_mapping"] < 0).sum())
        tokens = len(own["slot_mapping"])
        variant = replace(problem, tokens=tokens, padding=padding, seqs=1, context=0, lengths="equal")
        cases.append((variant, {**inputs, **own}))
    return Derived(
        tuple(cases), lambda base, derived: (base, {n: torch.cat([part[n] for part in derived]) for n in base})
    )


def doubled(problem: WithRope, inputs: Inputs, generator: torch.Generator) -> Derived:
    """Twice the values give twice the outputs, or with twice the scale the same stored bytes."""
    twice = {name: inputs[name] * 2 for name in problem.activations}
    scales = {name: 2 * getattr(problem, name) for name in ("k_scale", "v_scale", "kv_scale") if hasattr(problem, name)}

    def relate(base: Outputs, derived: Any) -> tuple[Outputs, Outputs]:
        return derived[0], {n: base[n] * (1 if problem.is_fp8 and n in problem.caches else 2) for n in base}

    return Derived(((replace(problem, **scales), {**inputs, **twice}),), relate)


def other_table(problem: WithRope, inputs: Inputs, generator: torch.Generator) -> Derived:
    """Rows of the table at other places, with the positions to match, change nothing."""
    import torch

    table = inputs["cos_sin_cache"]
    order = torch.randperm(len(table), generator=generator).to(table.device)
    positions = order.argsort()[inputs["positions"]]
    case = (problem, {**inputs, "cos_sin_cache": table[order].contiguous(), "positions": positions})
    return Derived((case,), lambda base, derived: (derived[0], base))


def other_style(problem: WithRope, inputs: Inputs, generator: torch.Generator) -> Derived:
    """The other style turns columns in another order."""
    import torch

    rotary_dim = inputs["cos_sin_cache"].shape[-1]
    order = torch.arange(rotary_dim)
    order = order.view(2, -1).t().flatten() if problem.is_neox else order.view(-1, 2).t().flatten()
    return _columns_moved(replace(problem, is_neox=not problem.is_neox), inputs, order)


def conjugate(problem: WithRope, inputs: Inputs, generator: torch.Generator) -> Derived:
    """Both values of every pair exchanged turn the other way round."""
    import torch

    table = inputs["cos_sin_cache"].clone()
    rotary_dim = table.shape[-1]
    table[:, rotary_dim // 2 :].neg_()
    order = torch.arange(rotary_dim)
    order = order.view(2, -1).flip(0).flatten() if problem.is_neox else order.view(-1, 2).flip(1).flatten()
    return _columns_moved(problem, {**inputs, "cos_sin_cache": table}, order)


def some_heads(problem: RopeAppend, inputs: Inputs, generator: torch.Generator) -> Derived:
    """Some of the heads alone give their part of the outputs."""
    import torch

    where = inputs["q"].device
    counts = [int(torch.randint(1, n + 1, (), generator=generator)) for n in (problem.num_heads, problem.num_kv_heads)]
    heads, kv_heads = (
        torch.randperm(n, generator=generator)[:count].to(where)
        for n, count in zip((problem.num_heads, problem.num_kv_heads), counts, strict=True)
    )
    variant = replace(problem, num_heads=counts[0], num_kv_heads=counts[1])
    own = {"q": inputs["q"][:, heads].contiguous()}
    own |= {name: inputs[name][:, kv_heads].contiguous() for name in ("k", "v")}
    own |= {name: inputs[name][:, :, : counts[1]].contiguous() for name in problem.caches}

    def relate(base: Outputs, derived: Any) -> tuple[Outputs, Outputs]:
        rows = {n: base[n].view(problem.written, -1, problem.head_dim)[:, kv_heads] for n in problem.caches}
        return derived[0], {"q_out": base["q_out"][:, heads], **{n: r.flatten(0, 1) for n, r in rows.items()}}

    return Derived(((variant, {**inputs, **own}),), relate)


def _per_token(problem: WithRope) -> tuple[str, ...]:
    return (*problem.activations, "positions", "slot_mapping")


def _taken(problem: WithRope, outputs: Outputs, tokens: torch.Tensor, rows: torch.Tensor) -> Outputs:
    """`q_out` of some tokens, and of the caches some of the tokens that are written."""
    caches = {name: outputs[name].unflatten(0, (problem.written, -1))[rows].flatten(0, 1) for name in problem.caches}
    return {"q_out": outputs["q_out"][tokens], **caches}


def _columns_moved(variant: WithRope, inputs: Inputs, order: torch.Tensor) -> Derived:
    """A case whose turning columns come in another order, and the outputs' in the same."""
    turning: tuple[str, ...] = ("q", "k")
    first = {"q_out": 0, "k_cache": 0}
    if isinstance(variant, MLAAppend):
        turning, first = ("q_rope", "k_rope"), {"q_out": 0, "kv_cache": KV_LORA_RANK}
        assert len(order) == QK_ROPE_HEAD_DIM

    def moved(x: torch.Tensor, start: int) -> torch.Tensor:
        x = x.clone()
        x[..., start : start + len(order)] = x[..., start + order.to(x.device)]
        return x

    changes: Callable[[Outputs], Outputs] = lambda base: {  # noqa: E731 - it is said once
        name: moved(value, first[name]) if name in first else value for name, value in base.items()
    }
    case = (variant, {**inputs, **{name: moved(inputs[name], 0) for name in turning}})
    return Derived((case,), lambda base, derived: (derived[0], changes(base)))
