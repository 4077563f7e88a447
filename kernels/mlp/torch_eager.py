"""Eager PyTorch, unfused: cuBLAS, hipBLASLt or oneDNN for products, `rms_norm`, `silu` and indexing for the rest."""

from __future__ import annotations

import torch

from ..kernel import Kernel, Origin
from ..problem import Inputs, Outputs, Problem
from . import _torch_ops as ops
from .problem import AddRMSNorm, MLPBlock, QKNormRopeAppend, QKVProjection, RMSNorm, SwiGLU


def run(inputs: Inputs, problem: Problem) -> Outputs:
    """Any task."""
    if isinstance(problem, MLPBlock):
        return ops.block(inputs, problem, ops.rmsnorm, ops.swiglu)
    if isinstance(problem, QKVProjection):
        return ops.qkv(inputs, problem, ops.rmsnorm, ops.turned)
    if isinstance(problem, QKNormRopeAppend):
        return _qk_append(inputs, problem)
    if isinstance(problem, SwiGLU):
        return {"out": ops.swiglu(inputs["gate_up"])}
    assert isinstance(problem, RMSNorm)
    if isinstance(problem, AddRMSNorm):
        total = inputs["x"] + inputs["residual"]
        return {"out": ops.rmsnorm(total, inputs["weight"], problem.epsilon), "residual_out": total}
    return {"out": ops.rmsnorm(inputs["x"], inputs["weight"], problem.epsilon)}


def _qk_append(inputs: Inputs, problem: QKNormRopeAppend) -> Outputs:
    q, k, v = ops.qk_normed(inputs, problem, ops.rmsnorm)
    q, k = ops.turned(q, k, inputs)
    ops.write_rows(inputs["k_cache"], inputs["slots"], k)
    ops.write_rows(inputs["v_cache"], inputs["slots"], v)
    return {"q": q}


def version() -> str:
    """torch's version."""
    return f"torch {torch.__version__}"


KERNEL = Kernel(
    origin=Origin.VENDOR,
    tasks=("block", "qkv", "qk_append", "rmsnorm", "add_rmsnorm", "swiglu"),
    run=run,
    version=version,
)
