"""The activation of gated MLPs, in Triton."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def silu(x):
    """x / (1 + exp(-x)), float32."""
    return x / (1.0 + tl.exp(-x))
