"""What must hold between outputs of attention prefill, whoever computes them, and random problems to try it on.

A case with lengths of its own names them in `AttentionPrefill.lengths`; none is left without any query or any key.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from ..problem import Inputs, Outputs
from ..property import Derived, PropertySuite, with_far_scores
from ._prefill_problem import LENGTHS, SCALE_64, SCALE_128, AttentionPrefill

if TYPE_CHECKING:
    import torch

    from ..device import Device


def problems(device: Device, tiny: bool) -> Any:
    """Random problems, off the sweep: odd batches and head counts, lengths of 1 to a few hundred, any mask."""
    from hypothesis import strategies as st

    def build(num_kv_heads: int, group: int, mask: int, **fields: Any) -> AttentionPrefill:
        return AttentionPrefill(
            num_heads=num_kv_heads * group, num_kv_heads=num_kv_heads, causal=mask >= 0, window=max(0, mask), **fields
        )

    longest = 40 if tiny else 300
    return st.builds(
        build,
        batch=st.sampled_from(range(1, 5 if tiny else 9)),
        seq_len_q=st.sampled_from(range(1, longest + 1)),
        seq_len_kv=st.sampled_from(range(1, longest + 1)),
        num_kv_heads=st.sampled_from((1, 2, 3) if tiny else (1, 2, 3, 5, 8)),
        group=st.sampled_from((1, 2) if tiny else (1, 2, 3, 8)),
        mask=st.sampled_from((0, -1, 1, 5, 17, 64)),
        head_dim=st.sampled_from((16, 24, 64) if tiny else (64, 80, 128, 256)),
        lengths=st.sampled_from(LENGTHS),
        dtype=st.sampled_from(("bfloat16", "float16")),
        softmax_scale=st.sampled_from((SCALE_64, SCALE_128, 0.2)),
        return_lse=st.booleans(),
    )


def sequence_order(problem: AttentionPrefill, inputs: Inputs, generator: torch.Generator) -> Derived:
    """Sequences in another order give the same outputs in that order."""
    import torch

    order = torch.randperm(problem.batch, generator=generator).tolist()
    case = _packed(problem, [_sequences(inputs)[i] for i in order])
    starts = inputs["cu_seqlens_q"].tolist()
    rows = [row for i in order for row in range(starts[i], starts[i + 1])]
    return Derived((case,), lambda base, derived: (derived[0], {name: value[rows] for name, value in base.items()}))


def each_alone(problem: AttentionPrefill, inputs: Inputs, generator: torch.Generator) -> Derived | None:
    """Each sequence alone gives its part of what the batch gives."""
    import torch

    sequences = _sequences(inputs)
    if problem.batch < 2 or any(len(q) == 0 or len(k) == 0 for q, k, _ in sequences):
        return None
    cases = tuple(_packed(problem, [sequence]) for sequence in sequences)
    return Derived(cases, lambda base, derived: (base, {n: torch.cat([part[n] for part in derived]) for n in base}))


def some_heads(problem: AttentionPrefill, inputs: Inputs, generator: torch.Generator) -> Derived | None:
    """Some of the KV heads, with the query heads that share them, give their part of the outputs."""
    import torch

    if problem.num_kv_heads < 2:
        return None
    count = int(torch.randint(1, problem.num_kv_heads, (), generator=generator))
    kv_heads = torch.randperm(problem.num_kv_heads, generator=generator)[:count].to(inputs["q"].device)
    heads = (kv_heads[:, None] * problem.group + torch.arange(problem.group, device=kv_heads.device)).flatten()
    chosen = {"q": heads, "k": kv_heads, "v": kv_heads}
    own = {name: inputs[name][:, index].contiguous() for name, index in chosen.items()}
    variant = replace(problem, num_heads=len(heads), num_kv_heads=count)
    return Derived(
        ((variant, {**inputs, **own}),), lambda base, derived: (derived[0], {n: v[:, heads] for n, v in base.items()})
    )


def own_heads(problem: AttentionPrefill, inputs: Inputs, generator: torch.Generator) -> Derived | None:
    """A copy of the keys and values for each query head of a group changes nothing."""
    if problem.group == 1:
        return None
    own = {name: inputs[name].repeat_interleave(problem.group, 1) for name in ("k", "v")}
    return Derived(((replace(problem, num_kv_heads=problem.num_heads), {**inputs, **own}),), _same)


def last_queries(problem: AttentionPrefill, inputs: Inputs, generator: torch.Generator) -> Derived | None:
    """The last queries of each sequence alone see what they see behind the others: a prompt in chunks."""
    import torch

    sequences = _sequences(inputs)
    if any(len(q) == 0 for q, _, _ in sequences):
        return None
    kept = [int(torch.randint(1, len(q) + 1, (), generator=generator)) for q, _, _ in sequences]
    case = _packed(problem, [(q[len(q) - n :], k, v) for (q, k, v), n in zip(sequences, kept, strict=True)])
    ends = inputs["cu_seqlens_q"].tolist()[1:]
    rows = [row for end, n in zip(ends, kept, strict=True) for row in range(end - n, end)]
    return Derived((case,), lambda base, derived: (derived[0], {name: value[rows] for name, value in base.items()}))


def hidden_keys(problem: AttentionPrefill, inputs: Inputs, generator: torch.Generator) -> Derived | None:
    """What the keys and values of the last token are shows in no query before it, under a causal mask."""
    import torch

    sequences = _sequences(inputs)
    if not problem.causal or all(len(q) < 2 or len(k) == 0 for q, k, _ in sequences):
        return None
    starts_kv = inputs["cu_seqlens_kv"].tolist()
    ends = [end - 1 for start, end in pairwise(starts_kv) if end > start]
    spoiled = {name: inputs[name].clone() for name in ("k", "v")}
    for tensor in spoiled.values():
        noise = torch.randn(len(ends), *tensor.shape[1:], generator=generator) * 4
        tensor[ends] = noise.to(tensor)
    starts_q = inputs["cu_seqlens_q"].tolist()
    rows = [row for start, end in pairwise(starts_q) for row in range(start, end - 1)]
    return Derived(
        ((problem, {**inputs, **spoiled}),),
        lambda base, derived: ({n: v[rows] for n, v in derived[0].items()}, {n: v[rows] for n, v in base.items()}),
    )


def as_full(problem: AttentionPrefill, inputs: Inputs, generator: torch.Generator) -> Derived | None:
    """The last query of a causal sequence sees what it sees alone, without any mask."""
    sequences = _sequences(inputs)
    if not problem.causal or any(len(q) == 0 or len(k) == 0 for q, k, _ in sequences):
        return None
    seen = problem.window or problem.seq_len_kv
    case = _packed(replace(problem, causal=False, window=0), [(q[-1:], k[-seen:], v[-seen:]) for q, k, v in sequences])
    rows = [end - 1 for end in inputs["cu_seqlens_q"].tolist()[1:]]
    return Derived((case,), lambda base, derived: (derived[0], {name: value[rows] for name, value in base.items()}))


def key_order(problem: AttentionPrefill, inputs: Inputs, generator: torch.Generator) -> Derived | None:
    """The keys of a sequence in another order, with their values, change nothing where every query sees them all."""
    import torch

    if problem.causal:
        return None
    mixed = []
    for q, k, v in _sequences(inputs):
        order = torch.randperm(len(k), generator=generator).to(k.device)
        mixed.append((q, k[order], v[order]))
    return Derived((_packed(problem, mixed),), _same)


def keys_twice(problem: AttentionPrefill, inputs: Inputs, generator: torch.Generator) -> Derived | None:
    """Every key twice leaves `out` as it is and adds ln 2 to `lse`, where every query sees them all."""
    if problem.causal:
        return None
    doubled = [(q, k.repeat_interleave(2, 0), v.repeat_interleave(2, 0)) for q, k, v in _sequences(inputs)]

    def relate(base: Outputs, derived: Sequence[Outputs]) -> tuple[Outputs, Outputs]:
        return derived[0], base | ({"lse": base["lse"] + math.log(2)} if "lse" in base else {})

    return Derived((_packed(problem, doubled),), relate)


def scale(problem: AttentionPrefill, inputs: Inputs, generator: torch.Generator) -> Derived:
    """Half the query with twice the softmax scale changes nothing."""
    variant = replace(problem, softmax_scale=2 * problem.softmax_scale)
    return Derived(((variant, {**inputs, "q": inputs["q"] / 2}),), _same)


def shift(problem: AttentionPrefill, inputs: Inputs, generator: torch.Generator) -> Derived:
    """A constant added to every value shifts `out` by it; one added to every key shifts `lse` by scale * q . it.

    The keys' is in their last column alone: up for every other head, and down for the rest.
    """
    import torch

    v, k, q = inputs["v"], inputs["k"].clone(), with_far_scores(inputs["q"], problem.softmax_scale)
    coarse = (v.float() * 16).round().clamp(-48, 48) / 16  # sums of two such values are exact
    constant = torch.randint(-16, 17, (problem.head_dim,), generator=generator).to(v.device) / 16
    k[..., -1] = 0.0
    plain = {**inputs, "q": q, "k": k, "v": coarse.to(v.dtype)}
    k = k.clone()
    k[..., -1] = 1.0
    shifted = {**inputs, "q": q, "k": k, "v": (coarse + constant).to(v.dtype)}
    lse_shift = problem.softmax_scale * q[..., -1].float()
    sees = _sees(problem, inputs)

    def relate(base: Outputs, derived: Sequence[Outputs]) -> tuple[Outputs, Outputs]:
        before, after = derived
        expected = {"out": before["out"] + constant * sees[:, None, None]}
        return after, expected | ({"lse": before["lse"] + lse_shift} if "lse" in before else {})

    return Derived(((problem, plain), (problem, shifted)), relate)


def _same(base: Outputs, derived: Sequence[Outputs]) -> tuple[Outputs, Outputs]:
    return derived[0], base


def _sequences(inputs: Inputs) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """(q, k, v) of every sequence."""
    lengths_q, lengths_kv = (inputs[name].diff().tolist() for name in ("cu_seqlens_q", "cu_seqlens_kv"))
    split = (inputs["q"].split(lengths_q), inputs["k"].split(lengths_kv), inputs["v"].split(lengths_kv))
    return list(zip(*split, strict=True))


def _packed(
    problem: AttentionPrefill, sequences: Sequence[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]
) -> tuple[AttentionPrefill, Inputs]:
    """A case of these sequences."""
    import torch

    lengths = [(len(q), len(k)) for q, k, _ in sequences]
    longest = (max(own) for own in zip(*lengths, strict=True))
    seq_len_q, seq_len_kv = longest
    variant = replace(
        problem,
        batch=len(lengths),
        seq_len_q=seq_len_q,
        seq_len_kv=seq_len_kv,
        lengths="+".join(f"{n_q}x{n_kv}" for n_q, n_kv in lengths),
    )
    where = sequences[0][0].device
    inputs = {name: torch.cat(parts) for name, parts in zip(("q", "k", "v"), zip(*sequences, strict=True), strict=True)}
    for name, own in zip(problem.plan_inputs, zip(*lengths, strict=True), strict=True):
        starts = torch.tensor((0, *own), device=where).cumsum(0)
        inputs[name] = starts.int()
    return variant, inputs


def _sees(problem: AttentionPrefill, inputs: Inputs) -> torch.Tensor:
    """[total_q] 1.0 where a query sees a key, else 0.0."""
    import torch

    seen = []
    for q, k, _ in _sequences(inputs):
        position = torch.arange(len(k) - len(q), len(k), device=k.device)
        seen.append((position >= 0) if problem.causal else torch.full((len(q),), len(k) > 0, device=k.device))
    return torch.cat(seen).float()


PROPERTIES: Mapping[str, PropertySuite] = {
    "prefill": PropertySuite(
        AttentionPrefill,
        problems,
        {
            f.__name__: f
            for f in (
                sequence_order, each_alone, some_heads, own_heads, last_queries, hidden_keys, as_full, key_order,
                keys_twice, scale, shift,
            )
        },
    )
}  # fmt: skip
