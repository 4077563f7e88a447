"""Liger-Kernel's Triton operations, as its layers for LLaMA use them: gate and up are products of their own.

Source: liger_kernel/ops/{rms_norm,fused_add_rms_norm,swiglu}.py of liger-kernel 0.8; the forward functions, which are
all that inference calls. Casting mode "llama": the norm's result is rounded before its weight is applied.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn.functional import linear

from ..installed import package_version
from ..kernel import Kernel, Origin
from .problem import AddRMSNorm, MLPBlock, RMSNorm

if TYPE_CHECKING:
    from ..device import Device
from ..problem import Inputs, Outputs, Problem

MAX_HIDDEN_SIZE = 65536


def supports(problem: Problem, device: Device) -> str | None:
    """None, or the limit that this problem or device is past."""
    if device.kind == "cpu":
        return "Liger-Kernel's operations are written in Triton for GPUs"
    widest = problem.hidden_size if isinstance(problem, MLPBlock | RMSNorm) else 0
    if isinstance(problem, MLPBlock):
        widest = max(widest, problem.intermediate_size)
    if widest > MAX_HIDDEN_SIZE:
        return f"Liger-Kernel takes rows of up to {MAX_HIDDEN_SIZE} values; these have {widest}"
    return None


def run(inputs: Inputs, problem: Problem) -> Outputs:
    """Any task. SwiGLU's product alone is left out: it wants gate and up in tensors of their own."""
    if isinstance(problem, MLPBlock):
        return _block(inputs, problem)
    if isinstance(problem, AddRMSNorm):
        from liger_kernel.ops.fused_add_rms_norm import fused_add_rms_norm_forward

        out, total = fused_add_rms_norm_forward(
            inputs["x"], inputs["residual"], inputs["weight"], problem.epsilon, 0.0, "llama"
        )[:2]
        return {"out": out, "residual_out": total}
    assert isinstance(problem, RMSNorm)
    return {"out": _rmsnorm(inputs["x"], inputs["weight"], problem.epsilon)}


def _block(inputs: Inputs, problem: MLPBlock) -> Outputs:
    from liger_kernel.ops.swiglu import swiglu_forward

    x = inputs["x"]
    h = _rmsnorm(x, inputs["norm_weight"], problem.epsilon) if problem.norm else x
    w_gate, w_up = inputs["w_gate_up"].chunk(2)
    activated = swiglu_forward(linear(h, w_gate), linear(h, w_up))[-1]
    if problem.residual:
        return {"out": torch.addmm(x, activated, inputs["w_down"].t())}
    return {"out": linear(activated, inputs["w_down"])}


def _rmsnorm(x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    from liger_kernel.ops.rms_norm import rms_norm_forward

    normed: torch.Tensor = rms_norm_forward(x, weight, epsilon, 0.0, "llama", None)[0]
    return normed


KERNEL = Kernel(
    origin=Origin.VENDOR,
    tasks=("block", "rmsnorm", "add_rmsnorm"),
    supports=supports,
    requires=("liger_kernel.ops.rms_norm", "liger_kernel.ops.fused_add_rms_norm", "liger_kernel.ops.swiglu"),
    run=run,
    version=package_version("liger-kernel", "liger-kernel {}"),
)
