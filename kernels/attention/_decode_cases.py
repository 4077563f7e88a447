"""What properties make cases of: the tokens of a paged cache, and new caches and lengths with tables to match.

Lengths that a property chooses itself make a problem `uniform`, or `empties` where one of them is 0: a kernel may know
what `equal` means.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from ..problem import Inputs, Outputs
from ..property import Derived
from ._decode_problem import FP8_SCALES, SCALE_64, SCALE_128, PagedDecode

if TYPE_CHECKING:
    import torch

    from ..device import Device

    Tokens = dict[str, "torch.Tensor"]
    """By cache: [tokens, bytes of a token's row in all KV heads] uint8."""

CACHES = ("k_cache", "v_cache")
AnyDecode = TypeVar("AnyDecode", bound=PagedDecode)


def random_fields(device: Device, tiny: bool) -> dict[str, Any]:
    """Strategies for the fields that both tasks draw alike; `build` takes them."""
    from hypothesis import strategies as st

    return {
        "batch": st.sampled_from(range(1, 7 if tiny else 12)),
        "num_kv_heads": st.sampled_from(range(1, 4 if tiny else 9)),
        "group": st.sampled_from(range(1, 6 if tiny else 17)),
        "head_dim": st.sampled_from((16, 24, 64) if tiny else (64, 80, 128, 256)),
        "lengths": st.sampled_from(("equal", "normal", "uniform", "empties")),
        "page_size": st.sampled_from((64, 32, 16, 8, 4, 2, 1)),
        "dtype": st.sampled_from(("bfloat16", "float16")),
        "fp8": st.booleans().map(lambda wanted: _fp8_of(device) if wanted else None),
        "softmax_scale": st.sampled_from((SCALE_128, SCALE_64, 0.1)),
        "with_lse": st.just(True),  # what relates outputs asks for it
    }


def _fp8_of(device: Device) -> str | None:
    return device.fp8_dtype or ("float8_e4m3fn" if device.kind == "cpu" else None)


def builder(problem_class: type[AnyDecode]) -> Callable[..., AnyDecode]:
    """A function of the strategies' values -> problem."""

    def build(seq_len_q: int, seq_len_kv: int, group: int, fp8: str | None, **fields: Any) -> AnyDecode:
        return problem_class(
            seq_len_q=seq_len_q,
            seq_len_kv=max(seq_len_q, seq_len_kv),
            num_heads=group * fields["num_kv_heads"],
            kv_dtype=fp8 or fields["dtype"],
            **(FP8_SCALES if fp8 else {}),
            **fields,
        )

    return build


def same(base: Outputs, derived: Sequence[Outputs]) -> tuple[Outputs, Outputs]:
    """Relation: the first case gives what the base gives."""
    return derived[0], base


def any_lengths(problem: AnyDecode, lengths: Sequence[int]) -> AnyDecode:
    """The problem with these lengths, none above its longest; the block table keeps its width."""
    return replace(problem, seq_len_kv=problem.max_seq_len, lengths="empties" if 0 in lengths else "uniform")


def rows_of(cache: torch.Tensor) -> torch.Tensor:
    """[tokens, bytes of a token]: 8-bit floats know few operations, so rows are moved as bytes."""
    import torch

    return cache.contiguous().view(torch.uint8).flatten(0, 1).flatten(1)


def slots(table_row: torch.Tensor, length: int, page_size: int) -> torch.Tensor:
    """[length] int64: where in the cache a sequence's tokens are."""
    import torch

    token = torch.arange(length, device=table_row.device)
    return table_row[token // page_size].long() * page_size + token % page_size


def tokens_of(inputs: Inputs) -> list[Tokens]:
    """Every sequence's tokens."""
    page_size, lengths = inputs["k_cache"].shape[1], inputs["seq_lens"].tolist()
    rows = {name: rows_of(inputs[name]) for name in CACHES}
    places = [slots(inputs["block_table"][b], length, page_size) for b, length in enumerate(lengths)]
    return [{name: rows[name][place] for name in CACHES} for place in places]


def taken(tokens: Sequence[Tokens], choose: Callable[[int, torch.Tensor], torch.Tensor]) -> list[Tokens]:
    """`choose(sequence, rows)` of every sequence, the same for K and V where it does not draw."""
    return [{name: choose(b, rows) for name, rows in each.items()} for b, each in enumerate(tokens)]


def packed(
    problem: AnyDecode, inputs: Inputs, tokens: Sequence[Tokens], generator: torch.Generator
) -> tuple[AnyDecode, Inputs]:
    """A case with these tokens, in pages of random order; all other rows hold stale values."""
    import torch

    from ._decode_inputs import STALE

    where, page_size, lengths = inputs["q"].device, problem.page_size, [len(each["k_cache"]) for each in tokens]
    variant = replace(any_lengths(problem, lengths), seq_len_kv=max(problem.max_seq_len, *lengths))
    pages_used = torch.tensor([math.ceil(length / page_size) for length in lengths])
    num_pages = max(1, int(pages_used.sum()))
    table = torch.randint(0, num_pages, (problem.batch, variant.max_pages), generator=generator, dtype=torch.int32)
    order = torch.randperm(num_pages, generator=generator, dtype=torch.int32)
    table[torch.arange(variant.max_pages) < pages_used[:, None]] = order[: int(pages_used.sum())]
    table = table.to(where)
    caches = {}
    for name in CACHES:
        shape = (num_pages, *inputs[name].shape[1:])
        caches[name] = torch.full(shape, STALE, device=where).to(inputs[name].dtype)
        rows = rows_of(caches[name])
        for b, each in enumerate(tokens):
            rows[slots(table[b], lengths[b], page_size)] = each[name]
        caches[name] = rows.view(inputs[name].dtype).view(shape)
    seq_lens = torch.tensor(lengths, dtype=torch.int32, device=where)
    return variant, {**inputs, **caches, "block_table": table, "seq_lens": seq_lens}


# Properties of both tasks.


def sequence_order(problem: PagedDecode, inputs: Inputs, generator: torch.Generator) -> Derived:
    """Sequences in another order give the same outputs in that order."""
    import torch

    order = torch.randperm(problem.batch, generator=generator).to(inputs["q"].device)
    moved = {name: inputs[name][order].contiguous() for name in ("q", "block_table", "seq_lens")}
    lengths = inputs["seq_lens"][order].tolist()
    return Derived(
        ((any_lengths(problem, lengths), {**inputs, **moved}),),
        lambda base, derived: (derived[0], {name: value[order] for name, value in base.items()}),
    )


def page_order(problem: PagedDecode, inputs: Inputs, generator: torch.Generator) -> Derived:
    """Pages at other places, with the block table to match, change nothing."""
    import torch

    order = torch.randperm(len(inputs["k_cache"]), generator=generator).to(inputs["q"].device)
    table = order.argsort().int()[inputs["block_table"].long()]  # the new place of every page
    moved = {name: inputs[name].view(torch.uint8)[order].view(inputs[name].dtype) for name in CACHES}
    return Derived(((problem, {**inputs, **moved, "block_table": table}),), same)


def stale_tokens(problem: PagedDecode, inputs: Inputs, generator: torch.Generator) -> Derived:
    """What lies past a sequence's end, in its last page and in pages that are not its own, changes nothing."""
    import torch

    from ._decode_inputs import STALE

    table, page_size, where = inputs["block_table"].clone(), problem.page_size, inputs["q"].device
    num_pages = len(inputs["k_cache"])
    used = torch.zeros(num_pages * page_size, dtype=torch.bool, device=where)
    for row, length in enumerate(inputs["seq_lens"].tolist()):
        used[slots(table[row], length, page_size)] = True
        unused = table[row, math.ceil(length / page_size) :]
        unused.copy_(torch.randint(0, num_pages, unused.shape, generator=generator, dtype=torch.int32))
    spoiled = {}
    for name in CACHES:
        cache = inputs[name]
        noise = torch.randn(cache.shape, generator=generator).clamp(-4, 4).to(where) * (STALE / 4)
        rows = torch.where(used[:, None], rows_of(cache), rows_of(noise.to(cache.dtype)))
        spoiled[name] = rows.view(cache.dtype).view(cache.shape)
    return Derived(((problem, {**inputs, **spoiled, "block_table": table}),), same)


def other_lengths(problem: PagedDecode, inputs: Inputs, generator: torch.Generator) -> Derived:
    """Shorter sequences are as right as the ones that the problem was drawn with."""
    import torch

    lengths = inputs["seq_lens"]
    least = lengths.clamp_max(problem.seq_len_q)
    fraction = torch.rand(problem.batch, generator=generator).to(lengths.device)
    shorter = (least + fraction * (lengths - least + 1)).int().clamp_max(lengths)
    case = (any_lengths(problem, shorter.tolist()), {**inputs, "seq_lens": shorter})
    return Derived((case,), lambda base, derived: (derived[0], derived[0]))


def scale(problem: PagedDecode, inputs: Inputs, generator: torch.Generator) -> Derived:
    """Half the query with twice the softmax scale changes nothing."""
    variant = replace(problem, softmax_scale=2 * problem.softmax_scale)
    return Derived(((variant, {**inputs, "q": inputs["q"] / 2}),), same)


def split_batch(problem: PagedDecode, inputs: Inputs, generator: torch.Generator) -> Derived | None:
    """Two calls with a part of the sequences each give what one call gives."""
    import torch

    if problem.batch < 2:
        return None
    cut = int(torch.randint(1, problem.batch, (), generator=generator))
    cases = []
    for part in (slice(None, cut), slice(cut, None)):
        own = {name: inputs[name][part].contiguous() for name in ("q", "block_table", "seq_lens")}
        variant = replace(any_lengths(problem, own["seq_lens"].tolist()), batch=len(own["q"]))
        cases.append((variant, {**inputs, **own}))
    return Derived(
        tuple(cases), lambda base, derived: (base, {n: torch.cat([part[n] for part in derived]) for n in base})
    )


def some_kv_heads(problem: PagedDecode, inputs: Inputs, generator: torch.Generator) -> Derived | None:
    """Some of the KV heads, with their groups of heads, give their part of the outputs."""
    import torch

    if problem.num_kv_heads < 2:
        return None
    count = int(torch.randint(1, problem.num_kv_heads, (), generator=generator))
    chosen = torch.randperm(problem.num_kv_heads, generator=generator)[:count].to(inputs["q"].device)
    heads = (chosen[:, None] * problem.group + torch.arange(problem.group, device=chosen.device)).flatten()
    caches = {n: inputs[n].view(torch.uint8)[:, :, chosen].contiguous().view(inputs[n].dtype) for n in CACHES}
    variant = replace(problem, num_heads=len(heads), num_kv_heads=count)
    case = (variant, {**inputs, **caches, "q": inputs["q"][:, :, heads].contiguous()})
    return Derived((case,), lambda base, derived: (derived[0], {n: value[:, :, heads] for n, value in base.items()}))


COMMON = (sequence_order, page_order, stale_tokens, other_lengths, scale, split_batch, some_kv_heads)
