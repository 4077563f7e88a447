"""Products of activations with the weights of linear layers, out = x . w^T, small, skinny and large.

    linear      16-bit weights         _linear_problem.py
    linear_fp8  8-bit, with scales     _linear_fp8_problem.py
    linear_mx   4- and 6-bit weights   _linear_mx_problem.py

Weights are cold, activations warm: M tokens of a decode step meet weights that lie in memory.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..problem import Problem, Tier
from . import _linear_fp8_problem, _linear_mx_problem, _linear_problem
from ._linear_fp8_problem import LinearFP8
from ._linear_mx_problem import LinearMX
from ._linear_problem import Linear

__all__ = ["HARD_CASES", "PROBLEMS", "Linear", "LinearFP8", "LinearMX"]

_TASKS = (_linear_problem, _linear_fp8_problem, _linear_mx_problem)

PROBLEMS: Mapping[Tier, tuple[Problem, ...]] = {
    tier: tuple(dict.fromkeys(p for task in _TASKS for p in task.PROBLEMS[tier])) for tier in Tier
}
HARD_CASES: tuple[Problem, ...] = tuple(p for task in _TASKS for p in task.HARD_CASES)
