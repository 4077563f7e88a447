"""Properties of the experts: the grouped product alone, and a layer."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..problem import Inputs
from ..property import Derived, PropertySuite
from ._exchange_properties import ROUTINGS, same, shuffled
from ._experts_problem import BLOCK, MoEGroupedGEMM
from ._layer_problem import MoELayer

if TYPE_CHECKING:
    import torch

    from ..device import Device

LIGHT = 2**-7
"""What little weight leaves within a tolerance of an output that heavier experts make up."""


def _sizes(device: Device, tiny: bool) -> dict[str, Any]:
    """Strategies of the fields that both tasks have, and of whether weights have 8 bits."""
    from hypothesis import strategies as st

    sizes = st.sampled_from(range(16, 65 if tiny else 300, 8))
    return {
        "tokens": st.sampled_from(range(1, 8 if tiny else 60)),
        "hidden_size": sizes,
        "intermediate_size": sizes,
        "num_experts": st.sampled_from(range(1, 5 if tiny else 24)),
        "top_k": st.sampled_from(range(1, 4 if tiny else 7)),
        "routing": st.sampled_from(ROUTINGS),
        "dtype": st.sampled_from(("bfloat16", "float16")),
        "fp8": st.sampled_from((None, None, device.fp8_dtype or ("float8_e4m3fn" if device.kind == "cpu" else None))),
    }


def _fitted(fields: dict[str, Any]) -> dict[str, Any]:
    """Fields that go together: no more choices than experts, whole blocks for 8 bits."""
    fp8 = fields.pop("fp8")
    fields["top_k"] = min(fields["top_k"], fields["num_experts"])
    if fp8:
        for name in ("hidden_size", "intermediate_size"):
            fields[name] = BLOCK * (1 + fields[name] // 150)
    return {**fields, "weight_dtype": fp8 or fields["dtype"]}


def _grouped(device: Device, tiny: bool) -> Any:
    from hypothesis import strategies as st

    return st.builds(lambda **fields: MoEGroupedGEMM(**_fitted(fields)), **_sizes(device, tiny))


def _layers(device: Device, tiny: bool) -> Any:
    from hypothesis import strategies as st

    def build(router: str, shared: int, local: int, **fields: Any) -> MoELayer:
        if router == "softmax":
            return MoELayer(**_fitted({**fields, "routing": "uniform"}), router=router)
        local = min(local, fields["num_experts"])
        return MoELayer(**_fitted(fields), shared_experts=shared, num_local_experts=local)

    return st.builds(
        build,
        router=st.sampled_from(("given", "given", "softmax")),
        shared=st.sampled_from((0, 0, 1)),
        local=st.sampled_from((0, 0, 2, 5)),
        **_sizes(device, tiny),
    )


def _moved(table: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """Rows in another order; 8-bit floats cannot be indexed."""
    import torch

    raw = table.view(torch.uint8) if table.dtype.itemsize == 1 else table
    return raw[order].contiguous().view(table.dtype)


def _experts_moved(inputs: Inputs, order: torch.Tensor) -> Inputs:
    names = ("w13", "w13_scale", "w2", "w2_scale")
    return {name: _moved(inputs[name], order) for name in names if name in inputs}


def rows_of_an_expert(problem: MoEGroupedGEMM, inputs: Inputs, generator: torch.Generator) -> Derived:
    """An expert's rows in another order give its results in that order."""
    import torch

    ends, order, start = inputs["expert_ends"].tolist(), [], 0
    for end in ends:
        order.append(start + torch.randperm(end - start, generator=generator))
        start = end
    rows = torch.cat(order).to(inputs["x"].device)
    names = ("x", "x_scale")
    moved = {name: _moved(inputs[name], rows) for name in names if name in inputs}
    return Derived(((problem, {**inputs, **moved}),), lambda base, derived: (derived[0], {"h": base["h"][rows]}))


def empty_expert(problem: MoEGroupedGEMM, inputs: Inputs, generator: torch.Generator) -> Derived:
    """One more expert that has no row changes nothing."""
    import torch

    at = int(torch.randint(0, problem.num_experts + 1, (), generator=generator))
    ends = inputs["expert_ends"]
    before = ends[at - 1 : at] if at else torch.zeros_like(ends[:1])
    device = ends.device
    kept = torch.arange(problem.num_experts, device=device)
    order = torch.cat([kept[:at], kept[:1], kept[at:]])
    case = {**inputs, **_experts_moved(inputs, order), "expert_ends": torch.cat([ends[:at], before, ends[at:]])}
    return Derived(((replace(problem, num_experts=problem.num_experts + 1), case),), same)


def up_twice(problem: MoEGroupedGEMM, inputs: Inputs, generator: torch.Generator) -> Derived:
    """Twice the up projection doubles the result."""
    name = "w13_scale" if problem.is_fp8 else "w13"
    table = inputs[name].clone()
    table[:, table.shape[1] // 2 :] *= 2
    return Derived(((problem, {**inputs, name: table}),), lambda base, derived: (derived[0], {"h": 2 * base["h"]}))


def columns_in_another_order(problem: MoEGroupedGEMM, inputs: Inputs, generator: torch.Generator) -> Derived | None:
    """Columns of x and of the weights in another order give the same products."""
    if problem.is_fp8:
        return None
    order = shuffled(problem.hidden_size, generator, inputs["x"])
    moved = {name: inputs[name][..., order].contiguous() for name in ("x", "w13")}
    return Derived(((problem, {**inputs, **moved}),), same)


def token_order(problem: MoELayer, inputs: Inputs, generator: torch.Generator) -> Derived:
    """Tokens in another order give the same rows in that order."""
    order = shuffled(problem.tokens, generator, inputs["hidden"])
    names = ("hidden", "topk_ids", "topk_weights", "router_logits")
    moved = {name: inputs[name][order].contiguous() for name in names if name in inputs}
    return Derived(((problem, {**inputs, **moved}),), lambda base, derived: (derived[0], {"out": base["out"][order]}))


def expert_order(problem: MoELayer, inputs: Inputs, generator: torch.Generator) -> Derived:
    """Experts under other numbers, in the weights and in the routing, change nothing."""
    import torch

    order = shuffled(problem.stored_experts, generator, inputs["hidden"])
    moved = _experts_moved(inputs, order)
    if problem.router == "given":
        ids = inputs["topk_ids"]
        moved["topk_ids"] = torch.where(ids < 0, ids, order.argsort()[ids.clamp_min(0).long()].int())
    else:
        moved["router_logits"] = inputs["router_logits"][:, order].contiguous()
    return Derived(((problem, {**inputs, **moved}),), same)


def choices_in_another_order(problem: MoELayer, inputs: Inputs, generator: torch.Generator) -> Derived | None:
    """A token's choices in another order, with their weights, change nothing."""
    if problem.router != "given":
        return None
    order = shuffled(problem.slots, generator, inputs["hidden"])
    moved = {name: inputs[name][:, order].contiguous() for name in ("topk_ids", "topk_weights")}
    return Derived(((problem, {**inputs, **moved}),), same)


def down_twice(problem: MoELayer, inputs: Inputs, generator: torch.Generator) -> Derived:
    """Twice the down projection doubles the result."""
    name = "w2_scale" if problem.is_fp8 else "w2"
    return Derived(
        ((problem, {**inputs, name: inputs[name] * 2}),),
        lambda base, derived: (derived[0], {"out": 2 * base["out"]}),
    )


def split_choices(problem: MoELayer, inputs: Inputs, generator: torch.Generator) -> Derived | None:
    """The first choices and the others, each with the weights of the rest 0, add up to the whole."""
    import torch

    if problem.router != "given" or problem.slots < 2 or problem.is_fp8:
        return None
    cut = int(torch.randint(1, problem.slots, (), generator=generator))
    column = torch.arange(problem.slots, device=inputs["hidden"].device)
    weights = inputs["topk_weights"]
    cases = tuple(
        (problem, {**inputs, "topk_weights": torch.where(part, weights, 0.0).contiguous()})
        for part in (column < cut, column >= cut)
    )
    return Derived(cases, lambda base, derived: (base, {"out": derived[0]["out"] + derived[1]["out"]}))


def heaviest_yields_nothing(problem: MoELayer, inputs: Inputs, generator: torch.Generator) -> Derived | None:
    """An expert that yields nothing may weigh as much as it likes: the light ones are then all there is."""
    import torch

    if problem.router != "given":
        return None
    ids = inputs["topk_ids"]
    used = ids[ids >= 0]
    if not len(used):
        return None
    expert = used[int(torch.randint(len(used), (), generator=generator))]
    w2, light = inputs["w2"].clone(), inputs["topk_weights"] * LIGHT
    w2[expert.long()].view(torch.uint8).zero_()
    cases = tuple(
        (problem, {**inputs, "w2": w2, "topk_weights": torch.where(ids == expert, weight, light)})
        for weight in (1.0, 0.0)
    )
    return Derived(cases, lambda base, derived: (derived[0], derived[1]))


def some_tokens(problem: MoELayer, inputs: Inputs, generator: torch.Generator) -> Derived | None:
    """Half of the tokens alone give their rows."""
    half = problem.tokens // 2
    if not half:
        return None
    names = ("hidden", "topk_ids", "topk_weights", "router_logits")
    own = {name: inputs[name][:half].contiguous() for name in names if name in inputs}
    case = (replace(problem, tokens=half), {**inputs, **own})
    return Derived((case,), lambda base, derived: (derived[0], {"out": base["out"][:half]}))


def _named(*properties: Any) -> dict[str, Any]:
    return {f.__name__: f for f in properties}


GROUPED_GEMM = PropertySuite(
    MoEGroupedGEMM, _grouped, _named(rows_of_an_expert, empty_expert, up_twice, columns_in_another_order)
)
LAYER = PropertySuite(
    MoELayer,
    _layers,
    _named(
        token_order,
        expert_order,
        choices_in_another_order,
        down_twice,
        split_choices,
        heaviest_yields_nothing,
        some_tokens,
    ),
)
