"""What must hold between outputs of kernels that append to or gather from a cache, and random problems to try it on.

Caches of derived cases are those of the base: nobody reads what is in them but to gather.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..property import PropertySuite
from ._append_properties import (
    conjugate,
    doubled,
    more_padding,
    other_slots,
    other_style,
    other_table,
    some_heads,
    split_tokens,
    token_order,
)
from ._gather_problem import LENGTHS as GATHER_LENGTHS
from ._gather_problem import Gather
from ._gather_properties import doubled_values, fewer_heads, page_order, pages_of_one, sequence_order, unused_pages
from ._mla_append_problem import MLAAppend
from ._paged import LENGTHS
from ._rope_append_problem import RopeAppend

if TYPE_CHECKING:
    from ..device import Device

PAGE_SIZES = (16, 1, 4, 7, 64)
DTYPES = ("bfloat16", "float16")
SCALES = (1.0, 0.021, 0.5)


def rope_append_problems(device: Device, tiny: bool) -> Any:
    """Random problems off the sweep: odd token and head counts, any slots, heads of 8 to 192."""
    from hypothesis import strategies as st

    def build(cache: dict[str, Any], head_dim: int, rotary_part: int, **fields: Any) -> RopeAppend:
        rotary_dim = max(2, head_dim * rotary_part // 4 // 2 * 2)
        return RopeAppend(**_sized(cache), head_dim=head_dim, rotary_dim=rotary_dim, **fields)

    return st.builds(
        build,
        _caches(device, tiny),
        head_dim=st.sampled_from((16, 40, 8) if tiny else (128, 64, 96, 192, 8)),
        rotary_part=st.sampled_from((4, 2, 1)),
        num_heads=st.sampled_from(range(1, 6 if tiny else 40)),
        num_kv_heads=st.sampled_from(range(1, 4 if tiny else 10)),
        is_neox=st.booleans(),
        cos_sin_dtype=st.sampled_from(("float32", "bfloat16")),
        k_scale=st.sampled_from(SCALES),
        v_scale=st.sampled_from(SCALES),
    )


def mla_append_problems(device: Device, tiny: bool) -> Any:
    """Random problems off the sweep: odd token and head counts, any slots."""
    from hypothesis import strategies as st

    def build(cache: dict[str, Any], **fields: Any) -> MLAAppend:
        return MLAAppend(**_sized(cache), **fields)

    return st.builds(
        build,
        _caches(device, tiny),
        num_heads=st.sampled_from(range(1, 6 if tiny else 140)),
        is_neox=st.booleans(),
        cos_sin_dtype=st.sampled_from(("float32", "bfloat16")),
        kv_scale=st.sampled_from(SCALES),
    )


def gather_problems(device: Device, tiny: bool) -> Any:
    """Random problems off the sweep: odd lengths and widths, caches with pages of nobody."""
    from hypothesis import strategies as st

    def build(dtype: str, is_fp8: bool, **fields: Any) -> Gather:
        return Gather(dtype=dtype, cache_dtype=_cache_dtype(device, dtype, is_fp8), **fields)

    return st.builds(
        build,
        batch=st.sampled_from(range(1, 6 if tiny else 20)),
        seq_len=st.sampled_from(range(1, 9 if tiny else 90)),
        lengths=st.sampled_from(GATHER_LENGTHS),
        num_pages=st.sampled_from((0, 50, 111)),
        page_size=st.sampled_from(PAGE_SIZES),
        num_kv_heads=st.sampled_from(range(1, 4 if tiny else 10)),
        head_dim=st.sampled_from((16, 8, 24) if tiny else (128, 64, 40, 576)),
        dtype=st.sampled_from(DTYPES),
        is_fp8=st.booleans(),
        kv_scale=st.sampled_from(SCALES),
    ).filter(lambda problem: problem.tokens > 0)


def _caches(device: Device, tiny: bool) -> Any:
    """Strategy of the fields that all appends share."""
    from hypothesis import strategies as st

    def build(dtype: str, is_fp8: bool, **fields: Any) -> dict[str, Any]:
        return {"dtype": dtype, "cache_dtype": _cache_dtype(device, dtype, is_fp8), **fields}

    return st.builds(
        build,
        tokens=st.sampled_from(range(1, 9 if tiny else 300)),
        seqs=st.sampled_from(range(1, 5 if tiny else 30)),
        lengths=st.sampled_from(LENGTHS),
        context=st.sampled_from(range(20 if tiny else 200)),
        padding=st.sampled_from(range(4 if tiny else 40)),
        num_pages=st.sampled_from(range(5)),
        page_size=st.sampled_from(PAGE_SIZES),
        dtype=st.sampled_from(DTYPES),
        is_fp8=st.booleans(),
    )


def _sized(cache: dict[str, Any]) -> dict[str, Any]:
    """The fields, made to fit each other; `num_pages` was drawn as the pages left over."""
    tokens = cache["tokens"]
    seqs, padding = min(cache["seqs"], tokens), min(cache["padding"], tokens - 1)
    return {**cache, "seqs": seqs, "padding": padding, "num_pages": cache["num_pages"] + tokens + 2 * seqs}


def _cache_dtype(device: Device, dtype: str, is_fp8: bool) -> str:
    fp8 = device.fp8_dtype or ("float8_e4m3fn" if device.kind == "cpu" else None)
    return fp8 if is_fp8 and fp8 else dtype


_APPEND = (token_order, other_slots, more_padding, split_tokens, doubled, other_table, other_style, conjugate)
_GATHER = (sequence_order, page_order, unused_pages, pages_of_one, fewer_heads, doubled_values)

PROPERTIES: Mapping[str, PropertySuite] = {
    "rope_append": PropertySuite(RopeAppend, rope_append_problems, {f.__name__: f for f in (*_APPEND, some_heads)}),
    "mla_append": PropertySuite(MLAAppend, mla_append_problems, {f.__name__: f for f in _APPEND}),
    "gather": PropertySuite(Gather, gather_problems, {f.__name__: f for f in _GATHER}),
}
