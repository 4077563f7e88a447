"""RMSNorm, and residual add with RMSNorm, in Triton: one launch, every row read once and kept in registers.

Both are bound by memory. A program takes one row, or several narrow ones, with 16-byte loads; few rows get more threads
each. The sum is normed before it is rounded.
"""

from __future__ import annotations

from ..device import Device
from ..kernel import Kernel, Origin
from ..problem import Inputs, Outputs, Problem
from ._norm_kernels import rmsnorm
from ._norm_plan import NormPlan
from ._rmsnorm_plan import RMSNormPlan, plan
from .problem import RMSNorm

MAX_HIDDEN_SIZE = 65536


def run(inputs: Inputs, state: RMSNormPlan) -> Outputs:
    """One launch for either task."""
    return _normed(inputs, state.problem, state.norm)


def _normed(inputs: Inputs, problem: RMSNorm, tile: NormPlan) -> Outputs:
    x, residual = inputs["x"], inputs.get("residual")
    out = x.new_empty(x.shape)
    residual_out = None if residual is None else x.new_empty(x.shape)
    rmsnorm[(tile.num_programs,)](
        x, residual, inputs["weight"], out, residual_out, None, problem.tokens, 0, problem.epsilon,
        HIDDEN=problem.hidden_size, BLOCK_T=tile.block_t, BLOCK_H=tile.block_h, HAS_RESIDUAL=residual is not None,
        BLOCK_C=0, PERSISTENT=tile.persistent, STAGES=tile.num_stages, LOAD_POLICY=tile.load_policy,
        STORE_MODIFIER=tile.store_modifier, DEPENDENT_LAUNCH=False, num_warps=tile.num_warps,
    )  # fmt: skip
    return {"out": out} if residual_out is None else {"out": out, "residual_out": residual_out}


def supports(problem: Problem, device: Device) -> str | None:
    """None, or the limit that a row is past."""
    assert isinstance(problem, RMSNorm)
    if problem.hidden_size > MAX_HIDDEN_SIZE:
        return f"it keeps a row of up to {MAX_HIDDEN_SIZE} values in registers; these have {problem.hidden_size}"
    return None


KERNEL = Kernel(
    origin=Origin.HAND,
    tasks=("rmsnorm", "add_rmsnorm"),
    run=run,
    plan=plan,
    supports=supports,
    requires=("triton",),
    uses_triton=True,
)
