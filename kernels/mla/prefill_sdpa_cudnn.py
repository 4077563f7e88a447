"""MLA prefill by PyTorch's cuDNN SDPA, which takes V as it is.

Its causal mask begins at the first token, so that chunks behind a context get theirs as a tensor.

Source of the limits: `check_cudnn_tensor_shapes` in PyTorch's aten/src/ATen/native/transformers/cuda/sdp_utils.cpp.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch

from ..kernel import Kernel, Origin
from . import _prefill_sdpa

if TYPE_CHECKING:
    from ..device import Device
    from ._prefill_problem import MLAPrefill


def supports(problem: MLAPrefill, device: Device) -> str | None:
    """None, or the limit that this problem or device is past."""
    if device.kind != "cuda":
        return "cuDNN SDPA wants an NVIDIA GPU"
    if device.compute_capability < 90:
        return f"cuDNN SDPA takes head dimensions past 128 from sm_90 on; this is {device.arch}"
    return None


def attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """`_prefill_sdpa.Attend` by cuDNN."""
    attention = torch.ops.aten._scaled_dot_product_cudnn_attention  # noqa: SLF001 - the public function drops the LSE
    bias = None if mask is None else mask.expand(q.shape[0], q.shape[1], -1, -1)
    out, lse, *_ = attention(q, k, v, bias, True, is_causal=mask is None, scale=scale)
    return out, lse.view(q.shape[:3])


KERNEL = Kernel(
    origin=Origin.VENDOR,
    tasks=("prefill",),
    supports=supports,
    plan=_prefill_sdpa.plan,
    run=partial(_prefill_sdpa.run_with, attend),
    version=lambda: torch.__version__,
)
