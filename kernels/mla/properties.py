"""What must hold between outputs of MLA decode, whoever computes them, and random problems to try it on.

Lengths that a property chooses itself make a problem `uniform`, or `empties` where one of them is 0: a kernel may know
what `equal` means.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..lengths import LENGTHS
from ..problem import Inputs, Outputs
from ..property import Derived, PropertySuite, with_far_scores
from . import _layer_properties, _prefill_properties
from .problem import HEAD_DIM, KV_LORA_RANK, SCALE_192, SCALE_576, MLADecode

if TYPE_CHECKING:
    import torch

    from ..device import Device

STALE = 200.0
"""Within both e4m3 types; see problem.py."""


def problems(device: Device, tiny: bool) -> Any:
    """Random problems, off the sweep: odd batches and head counts, lengths of 1 to a few hundred, any page size."""
    from hypothesis import strategies as st

    def build(seq_len_q: int, seq_len_kv: int, dtype: str, is_fp8: bool, **fields: Any) -> MLADecode:
        kv_dtype = fp8 if is_fp8 and fp8 else dtype
        return MLADecode(
            seq_len_q=seq_len_q, seq_len_kv=max(seq_len_q, seq_len_kv), dtype=dtype, kv_dtype=kv_dtype, **fields
        )

    most_heads = 8 if tiny else 32 if device.kind == "cpu" else 128
    fp8 = device.fp8_dtype or ("float8_e4m3fn" if device.kind == "cpu" else None)
    return st.builds(
        build,
        batch=st.sampled_from(range(1, 8 if tiny else 12)),
        seq_len_q=st.sampled_from(range(1, 3 if tiny else 5)),
        seq_len_kv=st.sampled_from(range(1, 41 if tiny else 400)),
        num_heads=st.sampled_from(range(1, most_heads + 1)),
        lengths=st.sampled_from(LENGTHS),
        page_size=st.sampled_from((64, 32, 16, 8, 4, 2, 1)),
        dtype=st.sampled_from(("bfloat16", "float16")),
        is_fp8=st.booleans(),
        softmax_scale=st.sampled_from((SCALE_192, SCALE_576, 0.1)),
    )


def sequence_order(problem: MLADecode, inputs: Inputs, generator: torch.Generator) -> Derived:
    """Sequences in another order give the same outputs in that order."""
    import torch

    order = torch.randperm(problem.batch, generator=generator).to(inputs["q"].device)
    moved = {name: inputs[name][order].contiguous() for name in ("q", "block_table", "seq_lens")}
    lengths = inputs["seq_lens"][order].tolist()
    return Derived(
        ((_any_lengths(problem, lengths), {**inputs, **moved}),),
        lambda base, derived: (derived[0], {name: value[order] for name, value in base.items()}),
    )


def page_order(problem: MLADecode, inputs: Inputs, generator: torch.Generator) -> Derived:
    """Pages at other places, with the block table to match, change nothing."""
    import torch

    cache = inputs["kv_cache"]
    order = torch.randperm(len(cache), generator=generator).to(cache.device)
    table = order.argsort().int()[inputs["block_table"].long()]  # the new place of every page
    moved = _as_bytes(cache)[order].view(cache.dtype)
    return Derived(((problem, {**inputs, "kv_cache": moved, "block_table": table}),), _same)


def stale_tokens(problem: MLADecode, inputs: Inputs, generator: torch.Generator) -> Derived:
    """What lies past a sequence's end, in its last page and in pages that are not its own, changes nothing."""
    import torch

    cache, table, page_size = inputs["kv_cache"], inputs["block_table"].clone(), problem.page_size
    used = torch.zeros(len(cache) * page_size, dtype=torch.bool, device=cache.device)
    for row, length in enumerate(inputs["seq_lens"].tolist()):
        used[_slots(table[row], length, page_size)] = True
        unused = table[row, math.ceil(length / page_size) :]
        other = torch.randint(0, len(cache), unused.shape, generator=generator, dtype=torch.int32)
        unused.copy_(other)
    noise = torch.randn(len(used), HEAD_DIM, generator=generator).clamp(-4, 4).to(cache.device)
    stale = (noise * (STALE / 4)).to(cache.dtype)
    spoiled = torch.where(used[:, None], _rows(cache), _rows(stale)).view(cache.dtype).view(cache.shape)
    return Derived(((problem, {**inputs, "kv_cache": spoiled, "block_table": table}),), _same)


def other_lengths(problem: MLADecode, inputs: Inputs, generator: torch.Generator) -> Derived:
    """Shorter sequences are as right as the ones that the problem was drawn with."""
    import torch

    lengths = inputs["seq_lens"]
    least = lengths.clamp_max(problem.seq_len_q)
    fraction = torch.rand(problem.batch, generator=generator).to(lengths.device)
    shorter = (least + fraction * (lengths - least + 1)).int().clamp_max(lengths)
    variant = _any_lengths(problem, shorter.tolist())
    return Derived(((variant, {**inputs, "seq_lens": shorter}),), lambda base, derived: (derived[0], derived[0]))


def shift(problem: MLADecode, inputs: Inputs, generator: torch.Generator) -> Derived:
    """A constant added to every token shifts `out` by its latent part and `lse` by scale * q . constant.

    Of rope's last column that is most of the shift, up for every other head and down for the rest.
    """
    import torch

    cache = inputs["kv_cache"]
    step, most = (1 / 4, 1.75) if cache.element_size() == 1 else (1 / 16, 4.0)  # sums of two such values are exact
    constant = torch.randint(-round(most / step), round(most / step) + 1, (HEAD_DIM,), generator=generator) * step
    constant[-1] = most
    constant = constant.to(cache.device)
    coarse = ((cache.float() / step).round() * step).clamp(-most, most)
    coarse[..., -1] = 0.0
    q = with_far_scores(inputs["q"], problem.softmax_scale * most)
    cases = tuple((problem, {**inputs, "q": q, "kv_cache": kv.to(cache.dtype)}) for kv in (coarse, coarse + constant))
    lse_shift = problem.softmax_scale * (q.double() @ constant.double())

    def relate(base: Outputs, derived: Sequence[Outputs]) -> tuple[Outputs, Outputs]:
        before, after = derived
        seen = torch.isfinite(before["lse"])
        out = before["out"] + constant[:KV_LORA_RANK] * seen[..., None]
        return after, {"out": out, "lse": before["lse"] + lse_shift.float()}

    return Derived(cases, relate)


def scale(problem: MLADecode, inputs: Inputs, generator: torch.Generator) -> Derived:
    """Half the query with twice the softmax scale changes nothing."""
    variant = replace(problem, softmax_scale=2 * problem.softmax_scale)
    return Derived(((variant, {**inputs, "q": inputs["q"] / 2}),), _same)


def token_order(problem: MLADecode, inputs: Inputs, generator: torch.Generator) -> Derived | None:
    """The tokens of a sequence in another order change nothing for a single query, which sees them all."""
    import torch

    if problem.seq_len_q > 1:
        return None
    mixed = [rows[torch.randperm(len(rows), generator=generator).to(rows.device)] for rows in _tokens(inputs)]
    return Derived((_packed(problem, inputs, mixed, generator),), _same)


def tokens_twice(problem: MLADecode, inputs: Inputs, generator: torch.Generator) -> Derived | None:
    """Every token twice leaves `out` as it is and adds ln 2 to `lse`, for a single query."""
    if problem.seq_len_q > 1:
        return None
    doubled = [rows.repeat_interleave(2, 0) for rows in _tokens(inputs)]
    return Derived(
        (_packed(problem, inputs, doubled, generator),),
        lambda base, derived: (derived[0], {"out": base["out"], "lse": base["lse"] + math.log(2)}),
    )


def split_tokens(problem: MLADecode, inputs: Inputs, generator: torch.Generator) -> Derived | None:
    """Both parts of every sequence, weighed by their `lse`, give the whole, for a single query."""
    import torch

    tokens = _tokens(inputs)
    has_empties = problem.lengths == "empties"
    if problem.seq_len_q > 1 or any(len(rows) < 2 and not has_empties for rows in tokens):
        return None
    cuts = [int(torch.randint(1, max(2, len(rows)), (), generator=generator)) for rows in tokens]
    parts = (
        [rows[:cut] for rows, cut in zip(tokens, cuts, strict=True)],
        [rows[cut:] for rows, cut in zip(tokens, cuts, strict=True)],
    )
    return Derived(tuple(_packed(problem, inputs, part, generator) for part in parts), _combined)


def _combined(base: Outputs, derived: Sequence[Outputs]) -> tuple[Outputs, Outputs]:
    import torch

    lse = torch.logaddexp(derived[0]["lse"].double(), derived[1]["lse"].double())
    weights = [torch.exp(part["lse"].double() - lse).nan_to_num(0.0)[..., None] for part in derived]
    out = sum(weight * part["out"].double() for weight, part in zip(weights, derived, strict=True))
    assert isinstance(out, torch.Tensor)
    return base, {"out": out.float(), "lse": lse.float()}


def split_batch(problem: MLADecode, inputs: Inputs, generator: torch.Generator) -> Derived | None:
    """Two calls with half of the sequences each give what one call gives."""
    import torch

    if problem.batch < 2:
        return None
    cut = int(torch.randint(1, problem.batch, (), generator=generator))
    cases = []
    for part in (slice(None, cut), slice(cut, None)):
        own = {name: inputs[name][part].contiguous() for name in ("q", "block_table", "seq_lens")}
        variant = replace(_any_lengths(problem, own["seq_lens"].tolist()), batch=len(own["q"]))
        cases.append((variant, {**inputs, **own}))
    return Derived(
        tuple(cases), lambda base, derived: (base, {n: torch.cat([part[n] for part in derived]) for n in base})
    )


def some_heads(problem: MLADecode, inputs: Inputs, generator: torch.Generator) -> Derived | None:
    """Some of the heads alone give their part of the outputs."""
    import torch

    if problem.num_heads < 2:
        return None
    count = int(torch.randint(1, problem.num_heads, (), generator=generator))
    chosen = torch.randperm(problem.num_heads, generator=generator)[:count].to(inputs["q"].device)
    case = (replace(problem, num_heads=count), {**inputs, "q": inputs["q"][:, :, chosen].contiguous()})
    return Derived((case,), lambda base, derived: (derived[0], {n: value[:, :, chosen] for n, value in base.items()}))


def single_query(problem: MLADecode, inputs: Inputs, generator: torch.Generator) -> Derived | None:
    """Query i of several is the only query of a sequence that ends with it."""
    import torch

    if problem.seq_len_q == 1:
        return None
    i = int(torch.randint(0, problem.seq_len_q, (), generator=generator))
    lengths = (inputs["seq_lens"] - (problem.seq_len_q - 1 - i)).clamp_min(0)
    variant = replace(_any_lengths(problem, lengths.tolist()), seq_len_q=1)
    case = (variant, {**inputs, "q": inputs["q"][:, i : i + 1].contiguous(), "seq_lens": lengths})
    return Derived((case,), lambda base, derived: (derived[0], {n: value[:, i : i + 1] for n, value in base.items()}))


def _same(base: Outputs, derived: Sequence[Outputs]) -> tuple[Outputs, Outputs]:
    return derived[0], base


def _any_lengths(problem: MLADecode, lengths: Sequence[int]) -> MLADecode:
    """The problem with these lengths, none above its longest; the block table keeps its width."""
    return replace(problem, seq_len_kv=problem.max_seq_len, lengths="empties" if 0 in lengths else "uniform")


def _as_bytes(cache: torch.Tensor) -> torch.Tensor:
    """8-bit floats know few operations: rows are moved as bytes."""
    import torch

    return cache.contiguous().view(torch.uint8)


def _rows(cache: torch.Tensor) -> torch.Tensor:
    """[tokens, bytes of a row]."""
    return _as_bytes(cache).flatten(0, -2)


def _slots(table_row: torch.Tensor, length: int, page_size: int) -> torch.Tensor:
    """[length] int64: the rows of the cache that a sequence's tokens are in."""
    import torch

    token = torch.arange(length, device=table_row.device)
    return table_row[token // page_size].long() * page_size + token % page_size


def _tokens(inputs: Inputs) -> list[torch.Tensor]:
    """Every sequence's tokens, [length, bytes of a row]."""
    rows, page_size = _rows(inputs["kv_cache"]), inputs["kv_cache"].shape[1]
    lengths = inputs["seq_lens"].tolist()
    return [rows[_slots(inputs["block_table"][b], length, page_size)] for b, length in enumerate(lengths)]


def _packed(
    problem: MLADecode, inputs: Inputs, tokens: Sequence[torch.Tensor], generator: torch.Generator
) -> tuple[MLADecode, Inputs]:
    """A case with these tokens, in pages of random order; all other rows hold stale values."""
    import torch

    cache, page_size, lengths = inputs["kv_cache"], problem.page_size, [len(rows) for rows in tokens]
    variant = replace(_any_lengths(problem, lengths), seq_len_kv=max(problem.max_seq_len, *lengths))
    pages_used = torch.tensor([math.ceil(length / page_size) for length in lengths])
    num_pages = max(1, int(pages_used.sum()))
    table = torch.randint(0, num_pages, (problem.batch, variant.max_pages), generator=generator, dtype=torch.int32)
    order = torch.randperm(num_pages, generator=generator, dtype=torch.int32)
    table[torch.arange(variant.max_pages) < pages_used[:, None]] = order[: int(pages_used.sum())]
    table = table.to(cache.device)
    packed = torch.full((num_pages, page_size, HEAD_DIM), STALE, device=cache.device).to(cache.dtype)
    for row, rows in enumerate(tokens):
        _rows(packed)[_slots(table[row], len(rows), page_size)] = rows
    seq_lens = torch.tensor(lengths, dtype=torch.int32, device=cache.device)
    return variant, {"q": inputs["q"], "kv_cache": packed, "block_table": table, "seq_lens": seq_lens}


PROPERTIES: Mapping[str, PropertySuite] = {
    "decode": PropertySuite(
        MLADecode,
        problems,
        {
            f.__name__: f
            for f in (
                sequence_order, page_order, stale_tokens, other_lengths, shift, scale, token_order, tokens_twice,
                split_tokens, split_batch, some_heads, single_query,
            )
        },
    ),
    "prefill": _prefill_properties.SUITE,
    "layer": _layer_properties.SUITE,
}  # fmt: skip
