"""What must hold between outputs of MLA prefill, whoever computes them, and random problems to try it on.

Sequences that a property takes out of a batch are problems of a batch of one, whose lengths a problem can always say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from ..problem import Inputs, Outputs
from ..property import Derived, PropertySuite, with_far_scores
from ._dims import QK_HEAD_DIM, SCALE_192, SCALE_576
from ._prefill_problem import LENGTHS, MLAPrefill

if TYPE_CHECKING:
    import torch

    from ..device import Device


def problems(device: Device, tiny: bool) -> Any:
    """Random problems, off the sweep: odd batches, head counts and lengths, with and without context."""
    from hypothesis import strategies as st

    def build(seq_len_q: int, context: int, **fields: Any) -> MLAPrefill:
        return MLAPrefill(seq_len_q=seq_len_q, seq_len_kv=seq_len_q + context, **fields)

    return st.builds(
        build,
        batch=st.sampled_from(range(1, 4 if tiny else 8)),
        seq_len_q=st.sampled_from(range(1, 70 if tiny else 300)),
        context=st.one_of(st.just(0), st.sampled_from(range(1, 70 if tiny else 400))),
        num_heads=st.sampled_from(range(1, 3 if tiny else 9 if device.kind == "cpu" else 33)),
        lengths=st.sampled_from(LENGTHS),
        dtype=st.sampled_from(("bfloat16", "float16")),
        softmax_scale=st.sampled_from((SCALE_192, SCALE_576, 0.1)),
    )


def scale(problem: MLAPrefill, inputs: Inputs, generator: torch.Generator) -> Derived:
    """Half the query with twice the softmax scale changes nothing."""
    variant = replace(problem, softmax_scale=2 * problem.softmax_scale)
    return Derived(((variant, {**inputs, "q": inputs["q"] / 2}),), lambda base, derived: (derived[0], base))


def value_scale(problem: MLAPrefill, inputs: Inputs, generator: torch.Generator) -> Derived:
    """Twice the values give twice `out` and the same `lse`."""
    case = (problem, {**inputs, "v": inputs["v"] * 2})
    return Derived((case,), lambda base, derived: (derived[0], {**base, "out": base["out"] * 2}))


def value_shift(problem: MLAPrefill, inputs: Inputs, generator: torch.Generator) -> Derived:
    """A constant added to every value is added to `out`."""
    import torch

    shape = inputs["v"].shape[1:]
    constant = torch.randint(-32, 33, shape, generator=generator).to(inputs["v"].device) / 16
    coarse = ((inputs["v"].float() * 16).round() / 16).clamp(-4, 4)  # sums of two such values are exact
    dtype = inputs["v"].dtype
    cases = tuple((problem, {**inputs, "v": v.to(dtype)}) for v in (coarse, coarse + constant))
    return Derived(
        cases, lambda base, derived: (derived[1], {"out": derived[0]["out"] + constant, "lse": derived[0]["lse"]})
    )


def key_shift(problem: MLAPrefill, inputs: Inputs, generator: torch.Generator) -> Derived:
    """A constant added to every key leaves `out` as it is and shifts `lse` by scale * q . constant.

    Of the last column that is most of the shift, up for every other head and down for the rest.
    """
    import torch

    dtype, q = inputs["k"].dtype, with_far_scores(inputs["q"], problem.softmax_scale)
    constant = torch.randint(-16, 17, (q.shape[1], QK_HEAD_DIM), generator=generator).to(q.device) / 16
    constant[..., -1] = 1.0
    coarse = ((inputs["k"].float() * 16).round() / 16).clamp(-4, 4)
    coarse[..., -1] = 0.0
    cases = tuple((problem, {**inputs, "q": q, "k": k.to(dtype)}) for k in (coarse, coarse + constant))
    lse_shift = problem.softmax_scale * (q.double() * constant.double()).sum(-1)

    def relate(base: Outputs, derived: Sequence[Outputs]) -> tuple[Outputs, Outputs]:
        before, after = derived
        return after, {"out": before["out"], "lse": before["lse"] + lse_shift.float()}

    return Derived(cases, relate)


def some_heads(problem: MLAPrefill, inputs: Inputs, generator: torch.Generator) -> Derived | None:
    """Some of the heads alone give their part of the outputs."""
    import torch

    if problem.num_heads < 2:
        return None
    count = int(torch.randint(1, problem.num_heads, (), generator=generator))
    chosen = torch.randperm(problem.num_heads, generator=generator)[:count].to(inputs["q"].device)
    own = {name: inputs[name][:, chosen].contiguous() for name in ("q", "k", "v")}
    return Derived(
        ((replace(problem, num_heads=count), {**inputs, **own}),),
        lambda base, derived: (derived[0], {name: value[:, chosen] for name, value in base.items()}),
    )


def one_sequence(problem: MLAPrefill, inputs: Inputs, generator: torch.Generator) -> Derived | None:
    """A sequence alone gives its part of the outputs."""
    import torch

    sequences = [b for b, (new_tokens, _) in enumerate(_lengths(inputs)) if new_tokens]
    if problem.batch < 2 or not sequences:
        return None
    sequence = sequences[int(torch.randint(len(sequences), (), generator=generator))]
    case, rows = _alone(problem, inputs, sequence)
    return Derived((case,), lambda base, derived: (derived[0], {name: value[rows] for name, value in base.items()}))


def last_queries(problem: MLAPrefill, inputs: Inputs, generator: torch.Generator) -> Derived | None:
    """The last queries of a sequence give the same with the others as context: chunked prefill."""
    import torch

    long = [b for b, (new_tokens, _) in enumerate(_lengths(inputs)) if new_tokens > 1]
    if not long:
        return None
    sequence = long[int(torch.randint(len(long), (), generator=generator))]
    (variant, own), rows = _alone(problem, inputs, sequence)
    count = int(torch.randint(1, variant.seq_len_q, (), generator=generator))
    starts = torch.tensor([0, count], dtype=torch.int32, device=own["q"].device)
    case = (replace(variant, seq_len_q=count), {**own, "q": own["q"][-count:].contiguous(), "cu_seqlens_q": starts})
    return Derived(
        (case,), lambda base, derived: (derived[0], {name: value[rows][-count:] for name, value in base.items()})
    )


def later_tokens(problem: MLAPrefill, inputs: Inputs, generator: torch.Generator) -> Derived | None:
    """Other keys and values for a sequence's last token change its last query's output alone."""
    import torch

    # A sequence without tokens ends where the one before it does: written twice, a row would hold either's noise.
    ends, last_tokens = (
        inputs[name][1:][inputs[name].diff() > 0].long() - 1 for name in ("cu_seqlens_q", "cu_seqlens_kv")
    )
    k, v = inputs["k"].clone(), inputs["v"].clone()
    for tensor in (k, v):
        noise = torch.randn(len(last_tokens), *tensor.shape[1:], generator=generator)
        tensor[last_tokens] = noise.to(tensor.device, tensor.dtype)
    if not problem.total_q > len(ends):
        return None
    others = torch.ones(problem.total_q, dtype=torch.bool, device=k.device)
    others[ends] = False
    return Derived(
        ((problem, {**inputs, "k": k, "v": v}),),
        lambda base, derived: ({n: t[others] for n, t in derived[0].items()}, {n: t[others] for n, t in base.items()}),
    )


def _lengths(inputs: Inputs) -> list[tuple[int, int]]:
    """(new tokens, all tokens) of every sequence."""
    return list(zip(inputs["cu_seqlens_q"].diff().tolist(), inputs["cu_seqlens_kv"].diff().tolist(), strict=True))


def _alone(problem: MLAPrefill, inputs: Inputs, sequence: int) -> tuple[tuple[MLAPrefill, Inputs], slice]:
    """(a case of one sequence alone, its rows of the outputs)."""
    import torch

    (q0, q1), (kv0, kv1) = (
        list(pairwise(inputs[name].tolist()))[sequence] for name in ("cu_seqlens_q", "cu_seqlens_kv")
    )
    variant = replace(problem, batch=1, seq_len_q=q1 - q0, seq_len_kv=kv1 - kv0, lengths="equal")
    own = {
        "q": inputs["q"][q0:q1].contiguous(),
        "k": inputs["k"][kv0:kv1].contiguous(),
        "v": inputs["v"][kv0:kv1].contiguous(),
        "cu_seqlens_q": torch.tensor([0, q1 - q0], dtype=torch.int32, device=inputs["q"].device),
        "cu_seqlens_kv": torch.tensor([0, kv1 - kv0], dtype=torch.int32, device=inputs["q"].device),
    }
    return (variant, own), slice(q0, q1)


SUITE = PropertySuite(
    MLAPrefill,
    problems,
    {
        f.__name__: f
        for f in (
            scale, value_scale, value_shift, key_shift, some_heads, one_sequence, last_queries, later_tokens,
        )
    },
)  # fmt: skip
