"""Properties of the block and of the QKV projection: what their products guarantee. See properties.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..problem import Inputs, Outputs
from ..property import Derived
from .problem import MLPBlock, QKVProjection

if TYPE_CHECKING:
    import torch

    from ..device import Device

DTYPES = ("bfloat16", "float16")
EPSILONS = (1e-6, 1e-5)


def blocks(device: Device, tiny: bool) -> Any:
    """Random blocks, off the sweep: any number of tokens on either side of the kernels' limits, odd widths."""
    from hypothesis import strategies as st

    return st.builds(
        MLPBlock,
        tokens=st.sampled_from((*range(1, 21), 31, 48, 63, 64, 65, 67, 100, 129)),
        hidden_size=st.sampled_from(range(16, 97 if tiny else 400)),
        intermediate_size=st.sampled_from(range(16, 65 if tiny else 400)),
        norm=st.booleans(),
        residual=st.booleans(),
        dtype=st.sampled_from(DTYPES),
        epsilon=st.sampled_from(EPSILONS),
    )


def projections(device: Device, tiny: bool) -> Any:
    """Random projections: odd widths and head counts, heads of 16 to 256 values."""
    from hypothesis import strategies as st

    return st.builds(
        QKVProjection,
        tokens=st.sampled_from((*range(1, 18), 33, 64, 65, 67)),
        hidden_size=st.sampled_from(range(16, 97 if tiny else 400)),
        num_heads=st.sampled_from(range(1, 4 if tiny else 9)),
        num_kv_heads=st.sampled_from(range(1, 3)),
        qk_norm=st.booleans(),
        head_dim=st.sampled_from((64, 128, 32, 16, 48, 80) if tiny else (64, 128, 256, 32, 48, 80, 96)),
        max_position=st.sampled_from((50, 300)),
        dtype=st.sampled_from(DTYPES),
        epsilon=st.sampled_from(EPSILONS),
    )


def token_order(problem: Any, inputs: Inputs, generator: torch.Generator) -> Derived:
    """Tokens in another order give the same outputs in that order."""
    import torch

    order = torch.randperm(problem.tokens, generator=generator).to(inputs[_of_tokens(inputs)[0]].device)
    moved = {name: inputs[name][order].contiguous() for name in _of_tokens(inputs)}
    return Derived(
        ((problem, {**inputs, **moved}),),
        lambda base, derived: (derived[0], {name: value[order] for name, value in base.items()}),
    )


def split_tokens(problem: Any, inputs: Inputs, generator: torch.Generator) -> Derived | None:
    """Two calls with some of the tokens each give what one call gives."""
    import torch

    if problem.tokens < 2:
        return None
    cut = int(torch.randint(1, problem.tokens, (), generator=generator))
    cases = []
    for part in (slice(None, cut), slice(cut, None)):
        own = {name: inputs[name][part].clone() for name in _of_tokens(inputs)}  # at the start of memory of its own
        cases.append((replace(problem, tokens=len(own["x"])), {**inputs, **own}))
    return Derived(tuple(cases), lambda base, derived: (base, {n: torch.cat([d[n] for d in derived]) for n in base}))


def _of_tokens(inputs: Inputs) -> list[str]:
    return [name for name in ("x", "residual", "gate_up", "positions") if name in inputs]


def hidden_order(problem: Any, inputs: Inputs, generator: torch.Generator) -> Derived:
    """Columns of x in another order, with the norm's and the first weight's to match, move only the residual."""
    import torch

    order = torch.randperm(problem.hidden_size, generator=generator).to(inputs["x"].device)
    first = "w_gate_up" if problem.task == "block" else "w_qkv"
    moved = {name: inputs[name][..., order].contiguous() for name in ("x", "norm_weight", first) if name in inputs}
    if "w_down" in inputs:
        moved["w_down"] = inputs["w_down"][order].contiguous()

    def relate(base: Outputs, derived: Sequence[Outputs]) -> tuple[Outputs, Outputs]:
        return derived[0], {name: value[:, order] if name == "out" else value for name, value in base.items()}

    return Derived(((problem, {**inputs, **moved}),), relate)


def scaled_input(problem: Any, inputs: Inputs, generator: torch.Generator) -> Derived | None:
    """Twice x with four times epsilon gives the same norm; only a residual doubles."""
    if not getattr(problem, "norm", True):
        return None
    if getattr(problem, "qk_norm", False):  # its epsilon is another norm's as well
        return None
    x = inputs["x"]
    added = x.float() if getattr(problem, "residual", False) else 0.0
    variant = replace(problem, epsilon=4 * problem.epsilon)

    def relate(base: Outputs, derived: Sequence[Outputs]) -> tuple[Outputs, Outputs]:
        return derived[0], {name: value + added if name == "out" else value for name, value in base.items()}

    return Derived(((variant, {**inputs, "x": x * 2}),), relate)


def scaled_norm(problem: Any, inputs: Inputs, generator: torch.Generator) -> Derived | None:
    """Twice the norm's weight with half of the first weight changes nothing."""
    if "norm_weight" not in inputs:
        return None
    first = "w_gate_up" if problem.task == "block" else "w_qkv"
    scaled = {"norm_weight": inputs["norm_weight"] * 2, first: inputs[first] / 2}
    return Derived(((problem, {**inputs, **scaled}),), lambda base, derived: (derived[0], base))


def neuron_order(problem: MLPBlock, inputs: Inputs, generator: torch.Generator) -> Derived:
    """Neurons in another order, in all three weights, change nothing."""
    import torch

    order = torch.randperm(problem.intermediate_size, generator=generator).to(inputs["x"].device)
    gate_up = inputs["w_gate_up"].view(2, problem.intermediate_size, -1)[:, order].flatten(0, 1)
    moved = {"w_gate_up": gate_up.contiguous(), "w_down": inputs["w_down"][:, order].contiguous()}
    return Derived(((problem, {**inputs, **moved}),), lambda base, derived: (derived[0], base))


def split_neurons(problem: MLPBlock, inputs: Inputs, generator: torch.Generator) -> Derived | None:
    """Two MLPs with some of the neurons each add up to the whole, as tensor parallelism has it."""
    import torch

    size = problem.intermediate_size
    if size < 2:
        return None
    cut = int(torch.randint(1, size, (), generator=generator))
    gate_up = inputs["w_gate_up"].view(2, size, -1)
    cases = []
    for part in (slice(None, cut), slice(cut, None)):
        own = {
            "w_gate_up": gate_up[:, part].flatten(0, 1).contiguous(),
            "w_down": inputs["w_down"][:, part].contiguous(),
        }
        cases.append((replace(problem, intermediate_size=own["w_down"].shape[1]), {**inputs, **own}))
    counted_twice = inputs["x"].float() if problem.residual else 0.0
    return Derived(
        tuple(cases), lambda base, derived: (base, {"out": derived[0]["out"] + derived[1]["out"] - counted_twice})
    )


def negated_up(problem: MLPBlock, inputs: Inputs, generator: torch.Generator) -> Derived:
    """Up's rows with the other sign give the MLP's output with the other sign; the residual stays."""
    weight = inputs["w_gate_up"].clone()
    weight[problem.intermediate_size :] *= -1
    twice_x = 2 * inputs["x"].float() if problem.residual else 0.0
    return Derived(
        ((problem, {**inputs, "w_gate_up": weight}),),
        lambda base, derived: (derived[0], {"out": twice_x - base["out"]}),
    )


def head_order(problem: QKVProjection, inputs: Inputs, generator: torch.Generator) -> Derived:
    """Heads in another order within q, k and v give outputs in that order."""
    import torch

    device = inputs["x"].device
    counts = {"q": problem.num_heads, "k": problem.num_kv_heads, "v": problem.num_kv_heads}
    orders = {name: torch.randperm(count, generator=generator).to(device) for name, count in counts.items()}
    heads = inputs["w_qkv"].view(-1, problem.head_dim, problem.hidden_size).split(list(counts.values()))
    moved = torch.cat([part[orders[name]] for name, part in zip(counts, heads, strict=True)]).flatten(0, 1)
    return Derived(
        ((problem, {**inputs, "w_qkv": moved.contiguous()}),),
        lambda base, derived: (derived[0], {name: value[:, orders[name]] for name, value in base.items()}),
    )


def rotation_keeps_lengths(problem: Any, inputs: Inputs, generator: torch.Generator) -> Derived:
    """At position 0 nothing is turned, and at any other every pair of elements keeps its length."""
    first = {**inputs, "positions": inputs["positions"] * 0}

    def lengths(outputs: Outputs) -> Outputs:
        return {name: value if name.startswith("v") else _pair_lengths(value) for name, value in outputs.items()}

    return Derived(((problem, first),), lambda base, derived: (lengths(derived[0]), lengths(base)))


def _pair_lengths(heads: torch.Tensor) -> torch.Tensor:
    """[.., head_dim] -> [.., head_dim / 2], float32."""
    first, second = heads.float().chunk(2, dim=-1)
    return (first.square() + second.square()).sqrt()


OF_BLOCK = (
    token_order, split_tokens, hidden_order, scaled_input, scaled_norm, neuron_order, split_neurons, negated_up,
)  # fmt: skip
OF_QKV = (
    token_order, split_tokens, hidden_order, scaled_input, scaled_norm, head_order, rotation_keeps_lengths,
)  # fmt: skip
