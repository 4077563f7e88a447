"""Mixture of experts, in five tasks; the maths is in `_router_problem`, `_permute_problem`, `_experts_problem` and
`_layer_problem`.

router        logits -> the chosen experts and their weights
permute       rows of tokens sorted by expert        unpermute     their weighted sum, back in order
grouped_gemm  SwiGLU of the first product            layer         all experts of a layer, with a router or without
"""

from __future__ import annotations

from collections.abc import Mapping

from ..problem import Problem, Tier
from . import _permute_problem, _router_problem
from ._experts_problem import BLOCK, MoEGroupedGEMM
from ._experts_sweep import HARD_CASES as _EXPERTS_HARD_CASES
from ._experts_sweep import PROBLEMS as _EXPERTS_PROBLEMS
from ._layer_problem import MoELayer
from ._permute_problem import MoEPermute, MoEUnpermute
from ._router_problem import MoERouter

__all__ = ["BLOCK", "HARD_CASES", "PROBLEMS", "MoEGroupedGEMM", "MoELayer", "MoEPermute", "MoERouter", "MoEUnpermute"]

PROBLEMS: Mapping[Tier, tuple[Problem, ...]] = {
    tier: (*_router_problem.PROBLEMS[tier], *_permute_problem.PROBLEMS[tier], *_EXPERTS_PROBLEMS[tier]) for tier in Tier
}

HARD_CASES: tuple[Problem, ...] = (
    *_router_problem.HARD_CASES,
    *_permute_problem.HARD_CASES,
    *_EXPERTS_HARD_CASES,
)
