"""FlashInfer's TinyGEMM: bf16 products of few tokens, from sm_90 on; TensorRT-LLM's tinygemm2.

Source: flashinfer 0.6.12, flashinfer/gemm/routergemm.py. Blocks of 16 features and 8 tokens, one on a multiprocessor.
"""

from __future__ import annotations

import torch

from ..device import Device
from ..installed import flashinfer_version
from ..kernel import Kernel, Origin
from ..problem import Inputs, Outputs, Problem
from .problem import Linear

MAX_TOKENS = 64
"""It is written for 1 to 8: every block of 8 tokens reads w again."""
BLOCK_FEATURES, BLOCK_TOKENS = 16, 8


def supports(problem: Problem, device: Device) -> str | None:
    """None, or the limit that this problem or device is past."""
    assert isinstance(problem, Linear)
    if device.compute_capability < 90:
        return f"FlashInfer's TinyGEMM needs sm_90 or later; this is {device.arch}"
    if (problem.dtype, problem.out_dtype) != ("bfloat16", "bfloat16"):
        return f"FlashInfer's TinyGEMM multiplies bfloat16 into bfloat16, not {problem.dtype} into {problem.out_dtype}"
    if problem.n % BLOCK_FEATURES or problem.k % 64 or problem.m > MAX_TOKENS:
        return (
            f"FlashInfer's TinyGEMM wants n to be a multiple of 16, k of 64, and few tokens (here {MAX_TOKENS}): "
            f"{problem.n}, {problem.k} and {problem.m}"
        )
    blocks = problem.n // BLOCK_FEATURES * -(-problem.m // BLOCK_TOKENS)
    if blocks > device.num_sms:
        return (
            f"FlashInfer's TinyGEMM hung or crashed in each of three launches on an H200 where blocks had to wait for "
            f"others; here are {blocks} for {device.num_sms} multiprocessors"
        )
    return None


def run(inputs: Inputs, problem: Linear) -> Outputs:
    """One call, into a fresh output."""
    from flashinfer.gemm import tinygemm_bf16

    x, w = inputs["x"], inputs["w"]
    out = torch.empty((len(x), len(w)), dtype=torch.bfloat16, device=x.device)
    tinygemm_bf16(x, w, out)
    return {"out": out}


KERNEL = Kernel(
    origin=Origin.VENDOR,
    tasks=("linear",),
    supports=supports,
    requires=("flashinfer.gemm",),
    run=run,
    version=flashinfer_version,
)
