"""AITER's norms and SwiGLU product for AMD GPUs, between torch's products. Untested: needs an MI300X or its successors.

Written from AITER's source, aiter/ops/{rmsnorm,activation}.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ..installed import package_version
from ..kernel import Kernel, Origin
from . import _torch_ops as ops
from .problem import AddRMSNorm, MLPBlock, RMSNorm, SwiGLU

if TYPE_CHECKING:
    from ..device import Device
from ..problem import Inputs, Outputs, Problem

ARCHS = ("gfx942", "gfx950")
VALUES_OF_A_LOAD = 8


def supports(problem: Problem, device: Device) -> str | None:
    """None, or the limit that this problem or device is past."""
    if device.arch not in ARCHS:
        return f"AITER is written for {' and '.join(ARCHS)}; this is {device.arch}"
    widths = [getattr(problem, name, 0) for name in ("hidden_size", "intermediate_size")]
    if any(width % VALUES_OF_A_LOAD for width in widths):
        return f"AITER's kernels want rows of a multiple of 16 bytes; these have {max(widths)} values"
    return None


def run(inputs: Inputs, problem: Problem) -> Outputs:
    """Any task."""
    import aiter  # noqa: A004 - the library's name

    if isinstance(problem, MLPBlock):
        return ops.block(inputs, problem, aiter.rms_norm, _swiglu)
    if isinstance(problem, SwiGLU):
        return {"out": _swiglu(inputs["gate_up"])}
    if isinstance(problem, AddRMSNorm):
        x = inputs["x"]
        out, total = torch.empty_like(x), torch.empty_like(x)
        aiter.rmsnorm2d_fwd_with_add(out, x, inputs["residual"], total, inputs["weight"], problem.epsilon)
        return {"out": out, "residual_out": total}
    assert isinstance(problem, RMSNorm)
    return {"out": aiter.rms_norm(inputs["x"], inputs["weight"], problem.epsilon)}


def _swiglu(gate_up: torch.Tensor) -> torch.Tensor:
    import aiter  # noqa: A004 - the library's name

    out = gate_up.new_empty((*gate_up.shape[:-1], gate_up.shape[-1] // 2))
    aiter.silu_and_mul(out, gate_up)
    return out


KERNEL = Kernel(
    origin=Origin.VENDOR,
    tasks=("block", "rmsnorm", "add_rmsnorm", "swiglu"),
    supports=supports,
    requires=("aiter",),
    run=run,
    version=package_version("aiter", "aiter {}"),
)
