"""Properties of the router, and of the exchange of tokens both ways."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..problem import Inputs, Outputs
from ..property import Derived, PropertySuite
from ._permute_problem import MoEPermute, MoEUnpermute
from ._router_problem import MoERouter

if TYPE_CHECKING:
    import torch

    from ..device import Device

ROUTINGS = ("uniform", "balanced", "skewed", "empties")


def same(base: Outputs, derived: Sequence[Outputs]) -> tuple[Outputs, Outputs]:
    """The first derived case gives what the base gave."""
    return derived[0], base


def shuffled(count: int, generator: torch.Generator, like: torch.Tensor) -> torch.Tensor:
    """[count] int64 in random order, on the device of `like`."""
    import torch

    return torch.randperm(count, generator=generator).to(like.device)


def _routers(device: Device, tiny: bool) -> Any:
    from hypothesis import strategies as st

    def build(tokens: int, groups: int, members: int, top_groups: int, top_k: int, **fields: Any) -> MoERouter:
        top_groups = min(top_groups, groups)
        return MoERouter(
            tokens,
            groups * members,
            min(top_k, top_groups * members),
            num_groups=groups,
            top_groups=top_groups,
            **fields,
        )

    return st.builds(
        build,
        tokens=st.sampled_from(range(1, 9 if tiny else 200)),
        groups=st.sampled_from((1, 1, 2, 3, 8)),
        members=st.sampled_from(range(2, 40)),
        top_groups=st.sampled_from(range(1, 5)),
        top_k=st.sampled_from(range(1, 9)),
        scoring=st.sampled_from(("softmax", "sigmoid")),
        renormalize=st.booleans(),
        scaling_factor=st.sampled_from((1.0, 2.5, 0.3)),
    )


def token_order(problem: MoERouter, inputs: Inputs, generator: torch.Generator) -> Derived:
    """Tokens in another order give the same rows in that order."""
    order = shuffled(problem.tokens, generator, inputs["router_logits"])
    case = (problem, {**inputs, "router_logits": inputs["router_logits"][order].contiguous()})
    return Derived((case,), lambda base, derived: (derived[0], {n: v[order] for n, v in base.items()}))


def some_tokens(problem: MoERouter, inputs: Inputs, generator: torch.Generator) -> Derived | None:
    """Some of the tokens alone give their rows."""
    if problem.tokens < 2:
        return None
    chosen = shuffled(problem.tokens, generator, inputs["router_logits"])[: (problem.tokens + 1) // 2]
    case = (replace(problem, tokens=len(chosen)), {**inputs, "router_logits": inputs["router_logits"][chosen]})
    return Derived((case,), lambda base, derived: (derived[0], {n: v[chosen] for n, v in base.items()}))


def expert_order(problem: MoERouter, inputs: Inputs, generator: torch.Generator) -> Derived:
    """Groups, and experts within them, in another order give the same choices under their new numbers."""
    import torch

    logits = inputs["router_logits"]
    members = problem.num_experts // problem.num_groups
    groups = torch.randperm(problem.num_groups, generator=generator)
    old = torch.cat([int(g) * members + torch.randperm(members, generator=generator) for g in groups]).to(logits.device)
    new = old.argsort()
    moved = {name: value[..., old].contiguous() for name, value in inputs.items()}
    return Derived(
        ((problem, moved),), lambda base, derived: (derived[0], {**base, "ids": new[base["ids"].long()].float()})
    )


def scaling(problem: MoERouter, inputs: Inputs, generator: torch.Generator) -> Derived:
    """Twice the scaling factor doubles the weights and changes no choice."""
    case = (replace(problem, scaling_factor=2 * problem.scaling_factor), inputs)
    return Derived((case,), lambda base, derived: (derived[0], {**base, "weights": 2 * base["weights"]}))


def shift(problem: MoERouter, inputs: Inputs, generator: torch.Generator) -> Derived | None:
    """A constant added to all of a token's logits changes nothing for a softmax."""
    import torch

    if problem.scoring != "softmax":
        return None
    logits = inputs["router_logits"]
    constant = torch.randint(-2, 3, (problem.tokens, 1), generator=generator).to(logits.device) * 0.5
    return Derived(((problem, {**inputs, "router_logits": logits + constant}),), same)


def fewer_choices(problem: MoERouter, inputs: Inputs, generator: torch.Generator) -> Derived | None:
    """One choice fewer leaves the others as they are, but for their normalisation."""
    if problem.top_k < 2:
        return None

    def relate(base: Outputs, derived: Sequence[Outputs]) -> tuple[Outputs, Outputs]:
        first = {name: value[:, :-1] for name, value in base.items()}
        if problem.renormalize:
            share = first["weights"] / first["weights"].sum(-1, keepdim=True)
            first["weights"] = share * problem.scaling_factor
        return derived[0], first

    return Derived(((replace(problem, top_k=problem.top_k - 1), inputs),), relate)


def _exchanges(task: type[MoEPermute] | type[MoEUnpermute]) -> Any:
    def problems(device: Device, tiny: bool) -> Any:
        from hypothesis import strategies as st

        return st.builds(
            lambda num_experts, top_k, **fields: task(num_experts=num_experts, top_k=min(top_k, num_experts), **fields),
            tokens=st.sampled_from(range(1, 20 if tiny else 300)),
            hidden_size=st.sampled_from(range(8, 80 if tiny else 600, 8)),
            num_experts=st.sampled_from(range(1, 6 if tiny else 70)),
            top_k=st.sampled_from(range(1, 9)),
            routing=st.sampled_from(ROUTINGS),
            dtype=st.sampled_from(("bfloat16", "float16")),
        )

    return problems


def twice(problem: MoEPermute, inputs: Inputs, generator: torch.Generator) -> Derived:
    """Twice the rows are copied as twice the rows."""
    case = (problem, {**inputs, "hidden": inputs["hidden"] * 2})
    return Derived((case,), lambda base, derived: (derived[0], {**base, "permuted": 2 * base["permuted"]}))


def some_columns(problem: MoEPermute, inputs: Inputs, generator: torch.Generator) -> Derived | None:
    """Half of the columns alone are moved as the whole is."""
    half = problem.hidden_size // 16 * 8
    if not half:
        return None
    case = (replace(problem, hidden_size=half), {**inputs, "hidden": inputs["hidden"][:, :half].contiguous()})
    return Derived((case,), lambda base, derived: (derived[0], {**base, "permuted": base["permuted"][:, :half]}))


def rows_hold_their_tokens(problem: MoEPermute, inputs: Inputs, generator: torch.Generator) -> Derived:
    """Every row that `rows` names holds its token, and the last expert ends with the last row."""

    other = -inputs["hidden"]

    def relate(base: Outputs, derived: Sequence[Outputs]) -> tuple[Outputs, Outputs]:
        found = derived[0]["permuted"][derived[0]["rows"].long().flatten()]
        ends = base["expert_ends"].clone()
        ends[-1] = problem.slots
        wanted = other.float().repeat_interleave(problem.top_k, 0)
        return {**derived[0], "permuted": found}, {**base, "permuted": wanted, "expert_ends": ends}

    return Derived(((problem, {**inputs, "hidden": other}),), relate)


def new_expert_numbers(problem: MoEPermute, inputs: Inputs, generator: torch.Generator) -> Derived:
    """Experts under other numbers move as blocks: every token is still found where `rows` says."""
    import torch

    ids = inputs["topk_ids"]
    number = shuffled(problem.num_experts, generator, ids)
    case = (problem, {**inputs, "topk_ids": number[ids.long()].int()})

    def relate(base: Outputs, derived: Sequence[Outputs]) -> tuple[Outputs, Outputs]:
        counts = torch.diff(base["expert_ends"], prepend=base["expert_ends"].new_zeros(1))
        moved = torch.empty_like(counts)
        moved[number] = counts
        found = derived[0]["permuted"][derived[0]["rows"].long().flatten()]
        wanted = inputs["hidden"].float().repeat_interleave(problem.top_k, 0)
        starts, before = moved.cumsum(0) - moved, counts.cumsum(0) - counts
        rows = base["rows"] - before[ids.long()] + starts[number[ids.long()]]
        return {**derived[0], "permuted": found}, {"permuted": wanted, "rows": rows, "expert_ends": moved.cumsum(0)}

    return Derived((case,), relate)


def weights_twice(problem: MoEUnpermute, inputs: Inputs, generator: torch.Generator) -> Derived:
    """Twice the weights give twice the sum."""
    case = (problem, {**inputs, "topk_weights": 2 * inputs["topk_weights"]})
    return Derived((case,), lambda base, derived: (derived[0], {"out": 2 * base["out"]}))


def rows_elsewhere(problem: MoEUnpermute, inputs: Inputs, generator: torch.Generator) -> Derived:
    """Rows in another order, with their numbers to match, give the same sums."""
    order = shuffled(problem.slots, generator, inputs["rows"])
    rows = order.argsort()[inputs["rows"].long()].int()
    case = (problem, {**inputs, "expert_out": inputs["expert_out"][order].contiguous(), "rows": rows})
    return Derived((case,), same)


def choices_in_another_order(problem: MoEUnpermute, inputs: Inputs, generator: torch.Generator) -> Derived:
    """A token's choices in another order give the same sum."""
    order = shuffled(problem.top_k, generator, inputs["rows"])
    moved = {name: inputs[name][:, order].contiguous() for name in ("rows", "topk_weights")}
    return Derived(((problem, {**inputs, **moved}),), same)


def columns_alone(problem: MoEUnpermute, inputs: Inputs, generator: torch.Generator) -> Derived | None:
    """Half of the columns alone are summed as the whole is."""
    half = problem.hidden_size // 16 * 8
    if not half:
        return None
    case = (replace(problem, hidden_size=half), {**inputs, "expert_out": inputs["expert_out"][:, :half].contiguous()})
    return Derived((case,), lambda base, derived: (derived[0], {"out": base["out"][:, :half]}))


def _named(*properties: Any) -> dict[str, Any]:
    return {f.__name__: f for f in properties}


ROUTER = PropertySuite(
    MoERouter, _routers, _named(token_order, some_tokens, expert_order, scaling, shift, fewer_choices)
)
PERMUTE = PropertySuite(
    MoEPermute,
    _exchanges(MoEPermute),
    _named(twice, some_columns, rows_hold_their_tokens, new_expert_numbers),
)
UNPERMUTE = PropertySuite(
    MoEUnpermute,
    _exchanges(MoEUnpermute),
    _named(weights_twice, rows_elsewhere, choices_in_another_order, columns_alone),
)
