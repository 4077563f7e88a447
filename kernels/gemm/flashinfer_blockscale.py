"""FlashInfer's `fp8_blockscale_gemm_sm90`: TensorRT-LLM's block-scaled fp8 product, which swaps operands for M < 32.

Source: flashinfer 0.6.12, flashinfer/gemm/gemm_base.py. It wants the scales of x as [M, K / 128] with K contiguous:
the copy of these few numbers belongs to the call.
"""

from __future__ import annotations

from ..device import Device
from ..installed import flashinfer_version
from ..kernel import Kernel, Origin
from ..problem import Inputs, Outputs, Problem
from .problem import LinearFP8


def supports(problem: Problem, device: Device) -> str | None:
    """None, or the limit that this problem or device is past."""
    assert isinstance(problem, LinearFP8)
    if device.arch != "sm_90":
        return f"FlashInfer's fp8_blockscale_gemm_sm90 is for sm_90; this is {device.arch}"
    if (problem.scaling, problem.out_dtype) != ("block", "bfloat16"):
        return f"it has block scales and gives bfloat16, not {problem.scaling} scales and {problem.out_dtype}"
    if problem.k % 128 or problem.n % 64:
        return f"it wants k to be a multiple of 128 and n of 64: {problem.k} and {problem.n}"
    return None


def run(inputs: Inputs, problem: LinearFP8) -> Outputs:
    """A copy of the scales, and one call."""
    from flashinfer.gemm import fp8_blockscale_gemm_sm90

    x_scale = inputs["x_scale"].t().contiguous()
    return {"out": fp8_blockscale_gemm_sm90(inputs["x"], inputs["w"], x_scale, inputs["w_scale"])}


KERNEL = Kernel(
    origin=Origin.VENDOR,
    tasks=("linear_fp8",),
    supports=supports,
    requires=("flashinfer.gemm",),
    run=run,
    version=flashinfer_version,
)
