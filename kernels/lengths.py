"""Lengths of a batch of sequences: quantiles of a distribution, always the same in the same order.

So every launch has the same work to do. On an H200 another order alone moved the ratio of two kernels by 3 to 5%.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from statistics import NormalDist
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .problem import Inputs

LENGTHS = ("equal", "normal", "uniform", "empties")


def drawn_lengths(lengths: str, batch: int, seq_len_kv: int, least: int) -> list[int]:
    """`equal`: all seq_len_kv. `normal`: of N(s, s/2) within [least, 2s], as FlashMLA's bench has them. `uniform`: of
    U(s/8, s), no less than `least`. `empties`: a third 0, a third `least`, the rest s."""
    drawn = _quantiles(lengths, batch, seq_len_kv, least)
    random.Random(0).shuffle(drawn)
    return drawn


def most(lengths: str, seq_len_kv: int) -> int:
    """The longest sequence that `lengths` allows."""
    return 2 * seq_len_kv if lengths == "normal" else seq_len_kv


def _quantiles(lengths: str, batch: int, s: int, least: int) -> list[int]:
    at = [(i + 0.5) / batch for i in range(batch)]
    if lengths == "normal":
        spread = NormalDist(s, s / 2)
        return [min(max(round(spread.inv_cdf(p)), least), 2 * s) for p in at]
    if lengths == "uniform":
        return [max(least, round(s / 8 + p * (s - s / 8))) for p in at]
    if lengths == "empties":
        return [(0, least, s)[i % 3] for i in range(batch)]
    return [s] * batch


def planned_lengths(plan_inputs: Inputs, declared: Callable[[], list[tuple[int, int]]]) -> list[tuple[int, int]]:
    """(queries, keys) of every sequence, from the tables of their starts; on device `meta` as the problem declares."""
    starts_q, starts_kv = plan_inputs["cu_seqlens_q"], plan_inputs["cu_seqlens_kv"]
    if starts_q.is_meta:
        return declared()
    return list(zip(starts_q.diff().tolist(), starts_kv.diff().tolist(), strict=True))
