"""The attention family: one private module a task, each with its `Problem` class, `PROBLEMS` and `HARD_CASES`.

prefill    _prefill_problem.AttentionPrefill: packed sequences, causal, full or within a window
decode     _decode_problem: one to four new tokens a sequence over a paged cache
tree       _tree_problem: the tokens of a draft tree, each seeing its ancestors
"""

from __future__ import annotations

from collections.abc import Mapping

from ..problem import Problem, Tier
from . import _decode_problem, _prefill_problem, _tree_problem
from ._decode_problem import PagedDecode
from ._prefill_problem import AttentionPrefill
from ._tree_problem import TreeDecode

__all__ = ["HARD_CASES", "PROBLEMS", "AttentionPrefill", "PagedDecode", "TreeDecode"]

PARTS = (_prefill_problem, _decode_problem, _tree_problem)

PROBLEMS: Mapping[Tier, tuple[Problem, ...]] = {
    tier: tuple(problem for part in PARTS for problem in part.PROBLEMS[tier]) for tier in Tier
}
HARD_CASES: tuple[Problem, ...] = tuple(problem for part in PARTS for problem in part.HARD_CASES)
