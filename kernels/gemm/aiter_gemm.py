"""AITER's products for AMD GPUs: its tuned front end for bf16, CK for fp8 with block scales.

Source: AITER's aiter/tuned_gemm.py, aiter/ops/gemm_op_a8w8.py and op_tests/test_gemm_a8w8_blockscale.py. CK wants the
scales of x as [M, K / 128] with K contiguous: the copy of these few numbers belongs to the call. AITER's product of
bf16 activations and MXFP4 weights rounds the activations to MXFP4: that is another task.
"""

from __future__ import annotations

import torch

from ..device import Device
from ..installed import package_version
from ..kernel import Kernel, Origin
from ..problem import Inputs, Outputs, Problem
from .problem import Linear, LinearFP8

ARCHS = ("gfx942", "gfx950")


def supports(problem: Problem, device: Device) -> str | None:
    """None, or the limit that this problem or device is past."""
    assert isinstance(problem, (Linear, LinearFP8))
    if device.arch not in ARCHS:
        return f"AITER's products are written for {' and '.join(ARCHS)}; this is {device.arch}"
    if problem.out_dtype != "bfloat16":
        return f"AITER's products are asked for bfloat16 here, not {problem.out_dtype}"
    if isinstance(problem, Linear):
        return None if problem.dtype == "bfloat16" else f"AITER is asked for bfloat16 here, not {problem.dtype}"
    if problem.scaling != "block" or problem.k % 128 or problem.n % 16:
        return "AITER's CK product of fp8 wants block scales, k to be a multiple of 128 and n of 16"
    return None


def run(inputs: Inputs, problem: Linear | LinearFP8) -> Outputs:
    """One call; for fp8 after a copy of the scales of x."""
    if isinstance(problem, Linear):
        from aiter.tuned_gemm import tgemm

        return {"out": tgemm.mm(inputs["x"], inputs["w"], otype=torch.bfloat16)}
    from aiter import gemm_a8w8_blockscale

    x_scale = inputs["x_scale"].t().contiguous()
    return {"out": gemm_a8w8_blockscale(inputs["x"], inputs["w"], x_scale, inputs["w_scale"], dtype=torch.bfloat16)}


KERNEL = Kernel(
    origin=Origin.VENDOR,
    tasks=("linear", "linear_fp8"),
    supports=supports,
    requires=("aiter",),
    run=run,
    version=package_version("aiter"),
)
