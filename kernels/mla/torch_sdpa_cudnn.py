"""PyTorch's cuDNN SDPA. Its head dimensions end at 256, at 128 on most GPUs, so that no MLA decode fits.

Source: `check_cudnn_tensor_shapes` in PyTorch's aten/src/ATen/native/transformers/cuda/sdp_utils.cpp. The file says
so by name, rather than leaving a backend out.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch

from ..kernel import Kernel, Origin
from . import _sdpa
from .problem import KV_LORA_RANK

if TYPE_CHECKING:
    from ..device import Device
    from .problem import MLADecode


def supports(problem: MLADecode, device: Device) -> str | None:
    """None, or the limit that this problem or device is past."""
    if device.kind != "cuda":
        return "cuDNN SDPA wants an NVIDIA GPU"
    return "cuDNN SDPA takes head dimensions up to 256; absorbed MLA has 576"


def attend(
    q: torch.Tensor, kv: torch.Tensor, mask: torch.Tensor | None, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """`_sdpa.Attend` by cuDNN."""
    attention = torch.ops.aten._scaled_dot_product_cudnn_attention  # noqa: SLF001 - the public function drops the LSE
    out, lse, *_ = attention(q, kv, kv[..., :KV_LORA_RANK], mask, True, scale=scale)
    return out, lse


KERNEL = Kernel(
    origin=Origin.VENDOR,
    tasks=("decode",),
    supports=supports,
    plan=_sdpa.plan,
    run=partial(_sdpa.run_with, attend),
    version=lambda: torch.__version__,
)
