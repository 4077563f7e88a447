"""Eager PyTorch for quantised weights: 16-bit copies of x and w, then products by cuBLAS, hipBLASLt or oneDNN.

What a user without kernels for a format runs. The copies are made in every call.
"""

from __future__ import annotations

import torch

from ..device import Device
from ..kernel import Kernel, Origin
from ..problem import Inputs, Outputs, Problem
from . import _dequantised
from .problem import LinearFP8, LinearMX


def supports(problem: Problem, device: Device) -> str | None:
    """Refuses what would need more than 4 GB for the products of all groups."""
    return _dequantised.group_products_too_large(problem) if isinstance(problem, LinearFP8) else None


def run(inputs: Inputs, problem: LinearFP8 | LinearMX) -> Outputs:
    """A dozen small kernels and a product."""
    x, w, w_scale, dtype = inputs["x"], inputs["w"], inputs["w_scale"], getattr(torch, problem.out_dtype)
    if isinstance(problem, LinearFP8):
        return {"out": _dequantised.linear_fp8(x, w, inputs["x_scale"], w_scale, problem.scaling, dtype)}
    return {"out": _dequantised.linear_mx(x, w, inputs.get("x_scale"), w_scale, problem.w_format, dtype)}


KERNEL = Kernel(
    origin=Origin.VENDOR,
    tasks=("linear_fp8", "linear_mx"),
    run=run,
    supports=supports,
    version=lambda: torch.__version__,
)
