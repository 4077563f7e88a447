"""The parts of a transformer layer around its attention. One task a module:

    block        the gated MLP: RMSNorm, gate and up projection, SwiGLU, down projection, residual   _block_problem
    qkv          RMSNorm, fused QKV projection, QK-norm, RoPE                                          _qkv_problem
    qk_append    QK-norm, RoPE and the append of k and v to a paged cache, in place                    _append_problem
    rmsnorm, add_rmsnorm, swiglu    the memory-bound pieces alone                                      _pieces_problem

Weights are cold and activations warm: a layer's weights come from memory, what the layer before it wrote need not.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..problem import Problem, Tier
from . import _append_problem, _block_problem, _pieces_problem, _qkv_problem
from ._append_problem import QKNormRopeAppend
from ._block_problem import MLPBlock
from ._pieces_problem import AddRMSNorm, RMSNorm, SwiGLU
from ._qkv_problem import QKVProjection

__all__ = ["HARD_CASES", "PROBLEMS", "AddRMSNorm", "MLPBlock", "QKNormRopeAppend", "QKVProjection", "RMSNorm", "SwiGLU"]

_MODULES = (_block_problem, _qkv_problem, _append_problem, _pieces_problem)

PROBLEMS: Mapping[Tier, tuple[Problem, ...]] = {
    tier: tuple(problem for module in _MODULES for problem in module.PROBLEMS[tier]) for tier in Tier
}

HARD_CASES: tuple[Problem, ...] = tuple(problem for module in _MODULES for problem in module.HARD_CASES)
