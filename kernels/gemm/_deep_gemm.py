"""DeepGEMM's dense products, by itself or as vLLM vendors it.

Source: DeepGEMM's README and docs/API_REFERENCE.md. `nt`: both operands have K contiguous. On sm_90 scales are fp32,
those of x with the tokens contiguous and 16-byte aligned rows; where M is no multiple of 4 DeepGEMM copies them in a
kernel of its own. Kernels are compiled for a shape at its first call.
"""

from __future__ import annotations

from typing import Any

import torch

from ..device import Device
from ..problem import Inputs, Outputs, Problem
from .problem import Linear, LinearFP8

ALIGNMENT = 64


def supports(problem: Problem, device: Device) -> str | None:
    """None, or the limit that this problem or device is past."""
    assert isinstance(problem, (Linear, LinearFP8))
    if device.arch != "sm_90":
        return f"DeepGEMM takes fp32 scales on sm_90 only, where it was measured; this is {device.arch}"
    if problem.out_dtype != "bfloat16" or problem.dtype not in ("bfloat16", "float8_e4m3fn"):
        return f"DeepGEMM multiplies bfloat16 or e4m3fn into bfloat16, not {problem.dtype} into {problem.out_dtype}"
    if isinstance(problem, LinearFP8) and problem.scaling != "block":
        return f"DeepGEMM has block scales, not {problem.scaling} scales"
    if problem.n % ALIGNMENT or problem.k % ALIGNMENT:
        return f"DeepGEMM wants n and k to be multiples of {ALIGNMENT}: {problem.n} and {problem.k}"
    return None


def run_with(deep_gemm: Any, inputs: Inputs, problem: Linear | LinearFP8) -> Outputs:
    """One call of the module's function for the task."""
    x, w = inputs["x"], inputs["w"]
    out = torch.empty((len(x), len(w)), dtype=torch.bfloat16, device=x.device)
    if isinstance(problem, Linear):
        deep_gemm.bf16_gemm_nt(x, w, out)
    else:
        deep_gemm.fp8_gemm_nt((x, inputs["x_scale"].t()), (w, inputs["w_scale"]), out)
    return {"out": out}
