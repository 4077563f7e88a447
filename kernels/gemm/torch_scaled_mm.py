"""PyTorch's `torch._scaled_mm`: cuBLASLt and CUTLASS, hipBLASLt, or oneDNN on a CPU.

cuBLASLt has block scales (1 x 128 for x, 128 x 128 for w) on sm_90 from CUDA 12.9 on, with K / 128 a multiple of 4:
https://docs.nvidia.com/cuda/cublas/#scaling-factors-layouts and PyTorch's pull requests 158037 and 166752.
`use_fast_accum` stays off: sums then leave the tensor cores every 128 of K.
"""

from __future__ import annotations

import torch

from ..device import Device
from ..kernel import Kernel, Origin
from ..problem import Inputs, Outputs, Problem
from ._linear_fp8_problem import GROUP
from .problem import LinearFP8

ALIGNMENT = 16
SCALE_ALIGNMENT = 4


def supports(problem: Problem, device: Device) -> str | None:
    """None, or the limit that this problem or device is past."""
    assert isinstance(problem, LinearFP8)
    if device.kind == "cpu" and problem.dtype != "float8_e4m3fn":
        return f"oneDNN has no products of {problem.dtype}"
    if problem.k % ALIGNMENT or problem.n % ALIGNMENT:
        return f"torch._scaled_mm wants n and k to be multiples of {ALIGNMENT}: {problem.n} and {problem.k}"
    if problem.scaling == "row" and problem.out_dtype != "bfloat16":
        return f"torch._scaled_mm gives bfloat16 for row scales, not {problem.out_dtype}"
    if problem.scaling == "block":
        return _without_block_scales(problem, device)
    return None


def _without_block_scales(problem: LinearFP8, device: Device) -> str | None:
    if device.arch != "sm_90":
        return f"cuBLASLt has block scales in fp32 on sm_90 only; this is {device.arch}"
    if problem.k % (GROUP * SCALE_ALIGNMENT) or problem.m % SCALE_ALIGNMENT or problem.n % GROUP:
        return (
            f"cuBLASLt's block scales want m to be a multiple of {SCALE_ALIGNMENT}, n of {GROUP} and k of "
            f"{GROUP * SCALE_ALIGNMENT}: {problem.m}, {problem.n} and {problem.k}"
        )
    return None


def run(inputs: Inputs, problem: LinearFP8) -> Outputs:
    """One call: all scales are views, in the layout that they are stored in."""
    x_scale, w_scale = inputs["x_scale"].t(), inputs["w_scale"].t()
    if problem.scaling == "tensor":
        x_scale, w_scale = x_scale.reshape(()), w_scale.reshape(())
    dtype = getattr(torch, problem.out_dtype)
    return {"out": torch._scaled_mm(inputs["x"], inputs["w"].t(), x_scale, w_scale, out_dtype=dtype)}  # noqa: SLF001


KERNEL = Kernel(
    origin=Origin.VENDOR, tasks=("linear_fp8",), run=run, supports=supports, version=lambda: torch.__version__
)
