"""vLLM's `cutlass_scaled_mm`: CUTLASS fp8 products with tensor, row or block scales.

Source: vLLM's vllm/_custom_ops.py and its block-scaled linear layer, which hands over x's scales with the tokens
contiguous and pads M to a multiple of 4 on Hopper.
"""

from __future__ import annotations

import torch

from ..device import Device
from ..installed import vllm_version
from ..kernel import Kernel, Origin
from ..problem import Inputs, Outputs, Problem
from .problem import LinearFP8

ALIGNMENT = 16
TOKEN_ALIGNMENT = 4


def supports(problem: Problem, device: Device) -> str | None:
    """None, or the limit that this problem or device is past."""
    assert isinstance(problem, LinearFP8)
    if device.kind != "cuda" or device.compute_capability < 89:
        return f"vLLM's CUTLASS products of fp8 are for NVIDIA from sm_89 on; this is {device.arch}"
    if problem.out_dtype == "float32":
        return "vLLM's CUTLASS products give bfloat16 or float16, not float32"
    if problem.n % ALIGNMENT or problem.k % ALIGNMENT:
        return f"vLLM's CUTLASS products want n and k to be multiples of {ALIGNMENT}: {problem.n} and {problem.k}"
    if problem.scaling == "block" and (problem.m % TOKEN_ALIGNMENT or problem.k % 128):
        return f"vLLM's block scales want m to be a multiple of {TOKEN_ALIGNMENT} and k of 128"
    if problem.scaling == "block" and device.compute_capability < 90:
        return f"vLLM has block scales from sm_90 on; this is {device.arch}"
    return None


def run(inputs: Inputs, problem: LinearFP8) -> Outputs:
    """One call: all scales are views, in the layout that they are stored in."""
    from vllm._custom_ops import cutlass_scaled_mm

    dtype = getattr(torch, problem.out_dtype)
    x_scale, w_scale = inputs["x_scale"].t(), inputs["w_scale"].t()
    return {"out": cutlass_scaled_mm(inputs["x"], inputs["w"].t(), x_scale, w_scale, dtype)}


KERNEL = Kernel(
    origin=Origin.VENDOR,
    tasks=("linear_fp8",),
    supports=supports,
    requires=("vllm._custom_ops",),
    run=run,
    version=vllm_version,
)
