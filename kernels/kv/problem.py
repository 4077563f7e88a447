"""Paged KV caches: what is written to them, and what is read. One module a task says what it is.

    rope_append   RoPE on queries and keys, keys and values into the cache    _rope_append_problem.py
    append        keys and values into the cache                              _append_problem.py
    mla_append    RoPE on 64 columns, latent rows into the cache              _mla_append_problem.py
    gather        a paged cache, contiguous                                   _gather_problem.py
    rope          RoPE on queries and keys                                    _rope_problem.py

Appending updates its caches in place (`Problem.updated_rows`). Some caches hold more than 2^31 elements.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..problem import Problem, Tier
from . import _append_problem, _gather_problem, _mla_append_problem, _rope_append_problem, _rope_problem
from ._append_problem import Append
from ._gather_problem import Gather
from ._mla_append_problem import KV_LORA_RANK, QK_ROPE_HEAD_DIM, MLAAppend
from ._rope_append_problem import RopeAppend
from ._rope_problem import Rope

__all__ = [
    "HARD_CASES",
    "KV_LORA_RANK",
    "PROBLEMS",
    "QK_ROPE_HEAD_DIM",
    "Append",
    "Gather",
    "MLAAppend",
    "Rope",
    "RopeAppend",
]

_TASKS = (_rope_append_problem, _append_problem, _mla_append_problem, _gather_problem, _rope_problem)

PROBLEMS: Mapping[Tier, tuple[Problem, ...]] = {
    tier: tuple(problem for task in _TASKS for problem in task.PROBLEMS[tier]) for tier in Tier
}
HARD_CASES: tuple[Problem, ...] = tuple(problem for task in _TASKS for problem in task.HARD_CASES)
