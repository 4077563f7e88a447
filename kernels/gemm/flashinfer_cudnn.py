"""FlashInfer's `mm_bf16` on its cuDNN backend, which is its default.

Source: flashinfer 0.6.12, flashinfer/gemm/gemm_base.py. Its other backends: cuBLASLt, CUTLASS and TGV on sm_100 and
sm_103 only; TinyGEMM is `flashinfer_tinygemm`.
"""

from __future__ import annotations

import torch

from ..device import Device
from ..installed import flashinfer_version
from ..kernel import Kernel, Origin
from ..problem import Inputs, Outputs, Problem
from .problem import Linear

CAPABILITIES = (80, 86, 87, 89, 90, 100, 103, 110, 120, 121)


def supports(problem: Problem, device: Device) -> str | None:
    """None, or the limit that this problem or device is past."""
    assert isinstance(problem, Linear)
    if device.compute_capability not in CAPABILITIES:
        return f"FlashInfer's mm_bf16 is for NVIDIA from sm_80 on; this is {device.arch}"
    if problem.dtype != "bfloat16":
        return f"FlashInfer's mm_bf16 multiplies bfloat16, not {problem.dtype}"
    if problem.n % 8 or problem.k % 8:
        return f"cuDNN wants rows of a multiple of 16 bytes: n is {problem.n}, k is {problem.k}"
    return None


def run(inputs: Inputs, problem: Linear) -> Outputs:
    """One call."""
    from flashinfer.gemm import mm_bf16

    dtype = getattr(torch, problem.out_dtype)
    return {"out": mm_bf16(inputs["x"], inputs["w"].t(), out_dtype=dtype, backend="cudnn")}


KERNEL = Kernel(
    origin=Origin.VENDOR,
    tasks=("linear",),
    supports=supports,
    requires=("flashinfer.gemm", "cudnn"),
    run=run,
    version=flashinfer_version,
)
