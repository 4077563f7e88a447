"""What must hold between outputs of this family's tasks, whoever computes them, and random problems to try it on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..problem import Inputs, Outputs, Problem
from ..property import Derived, Property, PropertySuite
from ._layer_properties import (
    DTYPES,
    EPSILONS,
    OF_BLOCK,
    OF_QKV,
    blocks,
    projections,
    rotation_keeps_lengths,
    split_tokens,
    token_order,
)
from .problem import AddRMSNorm, MLPBlock, QKNormRopeAppend, QKVProjection, RMSNorm, SwiGLU

if TYPE_CHECKING:
    import torch

    from ..device import Device


def appends(device: Device, tiny: bool) -> Any:
    """Random appends: any page size, odd head counts, heads of 16 to 256 values."""
    from hypothesis import strategies as st

    return st.builds(
        QKNormRopeAppend,
        tokens=st.sampled_from(range(1, 10 if tiny else 40)),
        num_heads=st.sampled_from(range(1, 9)),
        num_kv_heads=st.sampled_from(range(1, 5)),
        head_dim=st.sampled_from((128, 64, 256, 32, 16, 48, 80)),
        page_size=st.sampled_from((16, 64, 8, 3, 1)),
        max_position=st.sampled_from((50, 300)),
        dtype=st.sampled_from(DTYPES),
        epsilon=st.sampled_from(EPSILONS),
    )


def norms(problem_class: type[RMSNorm]) -> Callable[[Device, bool], Any]:
    """Random norms of any width."""

    def problems(device: Device, tiny: bool) -> Any:
        from hypothesis import strategies as st

        return st.builds(
            problem_class,
            tokens=st.sampled_from(range(1, 40)),
            hidden_size=st.sampled_from(range(1, 300 if tiny else 3000)),
            dtype=st.sampled_from(DTYPES),
            epsilon=st.sampled_from(EPSILONS),
        )

    return problems


def products(device: Device, tiny: bool) -> Any:
    """Random SwiGLU products of any width."""
    from hypothesis import strategies as st

    return st.builds(
        SwiGLU,
        tokens=st.sampled_from(range(1, 40)),
        intermediate_size=st.sampled_from(range(1, 300 if tiny else 3000)),
        dtype=st.sampled_from(DTYPES),
    )


def _same(base: Outputs, derived: Sequence[Outputs]) -> tuple[Outputs, Outputs]:
    return derived[0], base


# Of the append.


def token_order_of_append(problem: QKNormRopeAppend, inputs: Inputs, generator: torch.Generator) -> Derived:
    """Tokens in another order, each with its position and slot, write the same rows and give q in that order."""
    import torch

    order = torch.randperm(problem.tokens, generator=generator).to(inputs["qkv"].device)
    moved = {name: inputs[name][order].contiguous() for name in ("qkv", "positions", "slots")}
    return Derived(
        ((problem, {**inputs, **moved}),), lambda base, derived: (derived[0], _by_token(problem, base, order))
    )


def other_slots(problem: QKNormRopeAppend, inputs: Inputs, generator: torch.Generator) -> Derived:
    """The same tokens in other slots."""
    import torch

    slots = torch.randperm(problem.num_pages * problem.page_size, generator=generator)[: problem.tokens]
    return Derived(((problem, {**inputs, "slots": slots.to(inputs["qkv"].device).contiguous()}),), _same)


def scaled_heads(problem: QKNormRopeAppend, inputs: Inputs, generator: torch.Generator) -> Derived:
    """Twice all heads with four times epsilon: q and k stay, v doubles."""
    variant = replace(problem, epsilon=4 * problem.epsilon)
    return Derived(
        ((variant, {**inputs, "qkv": inputs["qkv"] * 2}),),
        lambda base, derived: (derived[0], {**base, "v_cache": base["v_cache"] * 2}),
    )


def scaled_weights(problem: QKNormRopeAppend, inputs: Inputs, generator: torch.Generator) -> Derived:
    """Twice the weight of the queries' norm doubles q; the keys' with the other sign turns k's."""
    weights = {"q_norm_weight": inputs["q_norm_weight"] * 2, "k_norm_weight": -inputs["k_norm_weight"]}
    return Derived(
        ((problem, {**inputs, **weights}),),
        lambda base, derived: (derived[0], {**base, "q": base["q"] * 2, "k_cache": -base["k_cache"]}),
    )


def heads_as_tokens(problem: QKNormRopeAppend, inputs: Inputs, generator: torch.Generator) -> Derived | None:
    """Queries given as keys are turned alike: with the same heads and weights, q and the rows of k are the same."""
    if problem.num_heads < problem.num_kv_heads:
        return None
    import torch

    qkv = inputs["qkv"].view(problem.tokens, -1, problem.head_dim).clone()
    keys = slice(problem.num_heads, problem.num_heads + problem.num_kv_heads)
    qkv[:, keys] = qkv[:, : problem.num_kv_heads]
    case = {**inputs, "qkv": qkv.flatten(1), "k_norm_weight": inputs["q_norm_weight"].clone()}

    def relate(base: Outputs, derived: Sequence[Outputs]) -> tuple[Outputs, Outputs]:
        queries = derived[0]["q"][:, : problem.num_kv_heads].reshape(-1, problem.head_dim)
        assert isinstance(queries, torch.Tensor)
        return derived[0], {**derived[0], "k_cache": queries}

    return Derived(((problem, case),), relate)


def _by_token(problem: QKNormRopeAppend, outputs: Outputs, order: torch.Tensor) -> Outputs:
    shaped = {name: value.view(problem.tokens, -1, problem.head_dim)[order] for name, value in outputs.items()}
    return {name: value if name == "q" else value.flatten(0, 1) for name, value in shaped.items()}


# Of the norms and of SwiGLU's product.


def column_order(problem: Any, inputs: Inputs, generator: torch.Generator) -> Derived:
    """Columns in another order give outputs in that order."""
    import torch

    width = problem.intermediate_size if problem.task == "swiglu" else problem.hidden_size
    order = torch.randperm(width, generator=generator).to(next(iter(inputs.values())).device)
    moved = {}
    for name, tensor in inputs.items():
        halves = tensor.view(*tensor.shape[:-1], -1, width)[..., order]
        moved[name] = halves.reshape(tensor.shape).contiguous()
    return Derived(((problem, moved),), lambda base, derived: (derived[0], {n: v[:, order] for n, v in base.items()}))


def scaled_rows(problem: RMSNorm, inputs: Inputs, generator: torch.Generator) -> Derived:
    """Twice the activations with four times epsilon: the norm stays, a sum doubles."""
    variant = replace(problem, epsilon=4 * problem.epsilon)
    doubled = {name: inputs[name] * 2 for name in problem.activations}

    def relate(base: Outputs, derived: Sequence[Outputs]) -> tuple[Outputs, Outputs]:
        return derived[0], {name: value * 2 if name == "residual_out" else value for name, value in base.items()}

    return Derived(((variant, {**inputs, **doubled}),), relate)


def scaled_weight(problem: RMSNorm, inputs: Inputs, generator: torch.Generator) -> Derived:
    """The weight times -2 gives the norm times -2; a sum stays."""

    def relate(base: Outputs, derived: Sequence[Outputs]) -> tuple[Outputs, Outputs]:
        return derived[0], {**base, "out": base["out"] * -2}

    return Derived(((problem, {**inputs, "weight": inputs["weight"] * -2}),), relate)


def exchanged(problem: AddRMSNorm, inputs: Inputs, generator: torch.Generator) -> Derived:
    """x and the residual exchanged change nothing."""
    return Derived(((problem, {**inputs, "x": inputs["residual"], "residual": inputs["x"]}),), _same)


def negated_up(problem: SwiGLU, inputs: Inputs, generator: torch.Generator) -> Derived:
    """The second half times -2 gives the output times -2."""
    gate_up = inputs["gate_up"].clone()
    gate_up[:, problem.intermediate_size :] *= -2
    return Derived(
        ((problem, {**inputs, "gate_up": gate_up}),), lambda base, derived: (derived[0], {"out": base["out"] * -2})
    )


def negated_gate(problem: SwiGLU, inputs: Inputs, generator: torch.Generator) -> Derived:
    """silu(g) - silu(-g) = g: the outputs for both signs of the gate differ by gate * up."""
    gate_up = inputs["gate_up"].clone()
    gate_up[:, : problem.intermediate_size] *= -1
    gate, up = inputs["gate_up"].float().chunk(2, dim=-1)
    return Derived(
        ((problem, {**inputs, "gate_up": gate_up}),),
        lambda base, derived: ({"out": base["out"] - derived[0]["out"]}, {"out": gate * up}),
    )


def _suite(problem_class: type[Problem], problems: Any, properties: Sequence[Property]) -> PropertySuite:
    return PropertySuite(problem_class, problems, {f.__name__: f for f in properties})


_OF_NORMS = (token_order, split_tokens, column_order, scaled_rows, scaled_weight)

PROPERTIES: Mapping[str, PropertySuite] = {
    "block": _suite(MLPBlock, blocks, OF_BLOCK),
    "qkv": _suite(QKVProjection, projections, OF_QKV),
    "qk_append": _suite(
        QKNormRopeAppend,
        appends,
        (token_order_of_append, other_slots, scaled_heads, scaled_weights, heads_as_tokens, rotation_keeps_lengths),
    ),
    "rmsnorm": _suite(RMSNorm, norms(RMSNorm), _OF_NORMS),
    "add_rmsnorm": _suite(AddRMSNorm, norms(AddRMSNorm), (*_OF_NORMS, exchanged)),
    "swiglu": _suite(SwiGLU, products, (token_order, column_order, negated_up, negated_gate)),
}
