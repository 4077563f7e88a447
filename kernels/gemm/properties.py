"""What must hold between outputs of a linear layer, whoever computes them, and random problems to try it on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..problem import Inputs, Outputs
from ..property import Derived, PropertySuite
from ._linear_fp8_problem import SCALINGS, STORED_STD
from ._linear_mx_problem import BITS, GROUP, ONE, X_FORMATS
from .problem import Linear, LinearFP8, LinearMX

if TYPE_CHECKING:
    import torch

    from ..device import Device

AnyLinear = Linear | LinearFP8 | LinearMX
BLOCK = 128
"""Of a block scale, along K and along the features."""


def linear_problems(device: Device, tiny: bool) -> Any:
    """Random sizes off the sweep, 16-bit and fp32."""
    from hypothesis import strategies as st

    dtypes = (("bfloat16", "bfloat16"), ("float16", "float16"), ("bfloat16", "float32"), ("float32", "float32"))
    return st.builds(
        lambda dtypes, **sizes: Linear(dtype=dtypes[0], out_dtype=dtypes[1], **sizes),
        dtypes=st.sampled_from(dtypes),
        k=st.sampled_from(range(1, 200 if tiny else 1500)),
        **_sizes(tiny),
    )


def fp8_problems(device: Device, tiny: bool) -> Any:
    """Random sizes off the sweep, each scaling, in the device's e4m3 type."""
    from hypothesis import strategies as st

    return st.builds(
        LinearFP8,
        scaling=st.sampled_from(SCALINGS),
        dtype=st.just(device.fp8_dtype or "float8_e4m3fn"),
        out_dtype=st.sampled_from(("bfloat16", "float16", "float32")),
        k=st.sampled_from(range(1, 300 if tiny else 1500)),
        **_sizes(tiny),
    )


def mx_problems(device: Device, tiny: bool) -> Any:
    """Random sizes off the sweep, each format of weights and activations."""
    from hypothesis import strategies as st

    return st.builds(
        LinearMX,
        w_format=st.sampled_from(tuple(BITS)),
        x_format=st.sampled_from(X_FORMATS),
        out_dtype=st.sampled_from(("bfloat16", "float16", "float32")),
        k=st.sampled_from(range(GROUP, 200 if tiny else 1500, GROUP)),
        **_sizes(tiny),
    )


def _sizes(tiny: bool) -> dict[str, Any]:
    from hypothesis import strategies as st

    return {"m": st.sampled_from(range(1, 20 if tiny else 300)), "n": st.sampled_from(range(16, 60 if tiny else 400))}


def token_order(problem: AnyLinear, inputs: Inputs, generator: torch.Generator) -> Derived:
    """Tokens in another order give the same outputs in that order."""
    import torch

    order = torch.randperm(problem.m, generator=generator).to(inputs["x"].device)
    case = (problem, _with_tokens(problem, inputs, order))
    return Derived((case,), lambda base, derived: (derived[0], {"out": base["out"][order]}))


def some_tokens(problem: AnyLinear, inputs: Inputs, generator: torch.Generator) -> Derived | None:
    """Some of the tokens alone give their part of the outputs."""
    import torch

    if problem.m < 2:
        return None
    count = int(torch.randint(1, problem.m, (), generator=generator))
    chosen = torch.randperm(problem.m, generator=generator)[:count].to(inputs["x"].device)
    case = (replace(problem, m=count), _with_tokens(problem, inputs, chosen))
    return Derived((case,), lambda base, derived: (derived[0], {"out": base["out"][chosen]}))


def feature_order(problem: AnyLinear, inputs: Inputs, generator: torch.Generator) -> Derived:
    """Features in another order, of a block scale within its block, give the same outputs in that order."""
    order = _order_in_blocks(problem, problem.n, generator).to(inputs["w"].device)
    moved = {"w": _rows(inputs["w"], order)}
    if not _is_block(problem) and "w_scale" in inputs and len(inputs["w_scale"]) > 1:
        moved["w_scale"] = inputs["w_scale"][order].contiguous()
    return Derived(
        ((problem, {**inputs, **moved}),), lambda base, derived: (derived[0], {"out": base["out"][:, order]})
    )


def some_features(problem: AnyLinear, inputs: Inputs, generator: torch.Generator) -> Derived:
    """The first features alone give their part of the outputs."""
    import torch

    count = int(torch.randint(problem.n // 2, problem.n, (), generator=generator))
    kept = {"w": inputs["w"][:count].contiguous()}
    if "w_scale" in inputs:
        scale_rows = -(-count // BLOCK) if _is_block(problem) else count
        kept["w_scale"] = inputs["w_scale"][:scale_rows].contiguous()
    case = (replace(problem, n=count), {**inputs, **kept})
    return Derived((case,), lambda base, derived: (derived[0], {"out": base["out"][:, :count]}))


def k_order(problem: AnyLinear, inputs: Inputs, generator: torch.Generator) -> Derived:
    """K in another order, in x as in w, changes nothing: groups of microscaled values, others within a block scale."""
    import torch

    if isinstance(problem, LinearMX):
        order = torch.randperm(problem.k // GROUP, generator=generator).to(inputs["x"].device)
        moved = {
            name: _in_groups(problem, tensor)[:, order].flatten(1).view(tensor.dtype) for name, tensor in inputs.items()
        }
        return Derived(((problem, moved),), _same)
    order = _order_in_blocks(problem, problem.k, generator).to(inputs["x"].device)
    moved = {name: _columns(inputs[name], order) for name in ("x", "w")}
    return Derived(((problem, {**inputs, **moved}),), _same)


def split_k(problem: AnyLinear, inputs: Inputs, generator: torch.Generator) -> Derived | None:
    """Both parts of K, cut between two groups, add up to the whole."""
    import torch

    unit = GROUP if isinstance(problem, LinearMX) else BLOCK if _is_block(problem) else 1
    pieces = -(-problem.k // unit)
    if pieces < 2:
        return None
    cut = int(torch.randint(1, pieces, (), generator=generator))
    cases = tuple(_k_part(problem, inputs, start * unit, end * unit) for start, end in ((0, cut), (cut, pieces)))
    return Derived(cases, lambda base, derived: ({"out": derived[0]["out"] + derived[1]["out"]}, base))


def zeros_appended(problem: AnyLinear, inputs: Inputs, generator: torch.Generator) -> Derived:
    """More of K, with zeros in x, changes nothing whatever stands in w."""
    import torch

    more = GROUP if isinstance(problem, LinearMX) else int(torch.randint(1, 70, (), generator=generator))
    longer = replace(problem, k=problem.k + more)
    shapes = longer.make_inputs(0, "meta")
    padded = {}
    for name, tensor in inputs.items():
        filler = {torch.uint8: ONE, torch.float32: 1.0}.get(tensor.dtype, 0.5 if name == "w" else 0.0)
        wide = torch.full(shapes[name].shape, filler if name != "x" else 0.0, device=tensor.device).to(tensor.dtype)
        rows, columns = tensor.shape
        _bytes(wide)[:rows, : columns * tensor.element_size()] = _bytes(tensor)
        padded[name] = wide
    return Derived(((longer, padded),), _same)


def doubled(problem: AnyLinear, inputs: Inputs, generator: torch.Generator) -> Derived:
    """Twice the activations or twice a scale give twice the outputs."""
    if isinstance(problem, LinearMX):
        changed = {"w_scale": inputs["w_scale"] + 1}
    elif isinstance(problem, LinearFP8):
        changed = {"x_scale": inputs["x_scale"] * 2}
    else:
        changed = {"x": inputs["x"] * 2}
    return Derived(((problem, {**inputs, **changed}),), lambda base, derived: (derived[0], {"out": base["out"] * 2}))


def negated(problem: AnyLinear, inputs: Inputs, generator: torch.Generator) -> Derived:
    """Activations of the other sign give outputs of the other sign."""
    negative = (-inputs["x"].float()).to(inputs["x"].dtype)
    return Derived(((problem, {**inputs, "x": negative}),), lambda base, derived: (derived[0], {"out": -base["out"]}))


def superposition(problem: AnyLinear, inputs: Inputs, generator: torch.Generator) -> Derived:
    """The sum of two activations gives the sum of their outputs."""
    import torch

    x = inputs["x"]
    unit = STORED_STD if isinstance(problem, LinearFP8) else 1.0
    first = (x.float() / unit * 2).round().clamp(-7, 7)  # sums of two such integers are exact in every dtype
    second = torch.randint(-7, 8, x.shape, generator=generator).to(x.device)
    cases = tuple((problem, {**inputs, "x": part.to(x.dtype)}) for part in (first, second.float(), first + second))
    return Derived(cases, lambda base, derived: (derived[2], {"out": derived[0]["out"] + derived[1]["out"]}))


def _same(base: Outputs, derived: Sequence[Outputs]) -> tuple[Outputs, Outputs]:
    return derived[0], base


def _is_block(problem: AnyLinear) -> bool:
    return isinstance(problem, LinearFP8) and problem.scaling == "block"


def _order_in_blocks(problem: AnyLinear, size: int, generator: torch.Generator) -> torch.Tensor:
    """A random order of `size`; with block scales nothing leaves its block."""
    import torch

    step = BLOCK if _is_block(problem) else size
    parts = [start + torch.randperm(min(step, size - start), generator=generator) for start in range(0, size, step)]
    return torch.cat(parts)


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    """[rows, bytes of a row]: 8-bit floats know few operations."""
    import torch

    return tensor.contiguous().view(torch.uint8).view(len(tensor), -1)


def _rows(tensor: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    return _bytes(tensor)[order].view(tensor.dtype)


def _columns(tensor: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """The columns of a tensor of numbers in another order."""
    import torch

    if tensor.element_size() > 1:
        return tensor[:, order].contiguous()
    return tensor.view(torch.uint8)[:, order].contiguous().view(tensor.dtype)


def _with_tokens(problem: AnyLinear, inputs: Inputs, tokens: torch.Tensor) -> Inputs:
    """The inputs of these tokens."""
    chosen = {"x": _rows(inputs["x"], tokens)}
    if isinstance(problem, LinearMX) and "x_scale" in inputs:
        chosen["x_scale"] = inputs["x_scale"][tokens].contiguous()
    if isinstance(problem, LinearFP8) and problem.scaling != "tensor":
        chosen["x_scale"] = inputs["x_scale"][:, tokens].contiguous()
    return {**inputs, **chosen}


def _in_groups(problem: LinearMX, tensor: torch.Tensor) -> torch.Tensor:
    """[rows, groups of 32 along K, bytes of a group]."""
    return _bytes(tensor).view(len(tensor), problem.k // GROUP, -1)


def _k_part(problem: AnyLinear, inputs: Inputs, start: int, end: int) -> tuple[AnyLinear, Inputs]:
    """The case of K from `start` to `end`, both between two groups."""
    end = min(end, problem.k)
    part = replace(problem, k=end - start)
    if isinstance(problem, LinearMX):
        groups = slice(start // GROUP, end // GROUP)
        cut = {name: _in_groups(problem, tensor)[:, groups].flatten(1) for name, tensor in inputs.items()}
        return part, {name: tensor.contiguous().view(inputs[name].dtype) for name, tensor in cut.items()}
    own = {name: inputs[name][:, start:end].contiguous() for name in ("x", "w")}
    if _is_block(problem):
        blocks = slice(start // BLOCK, -(-end // BLOCK))
        own["x_scale"] = inputs["x_scale"][blocks].contiguous()
        own["w_scale"] = inputs["w_scale"][:, blocks].contiguous()
    return part, {**inputs, **own}


_PROPERTIES: Mapping[str, Any] = {
    f.__name__: f
    for f in (
        token_order, some_tokens, feature_order, some_features, k_order, split_k, zeros_appended, doubled, negated,
        superposition,
    )
}  # fmt: skip

PROPERTIES: Mapping[str, PropertySuite] = {
    "linear": PropertySuite(Linear, linear_problems, _PROPERTIES),
    "linear_fp8": PropertySuite(LinearFP8, fp8_problems, _PROPERTIES),
    "linear_mx": PropertySuite(LinearMX, mx_problems, _PROPERTIES),
}
