"""PyTorch's flash-attention SDPA. On a GPU its head dimension ends at 256, so it runs here on the CPU only.

The CPU's operator wants V as wide as K: it is given the whole cache row as V, and 512 of the 576 columns are kept.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch

from ..kernel import Kernel, Origin
from . import _sdpa

if TYPE_CHECKING:
    from ..device import Device
    from .problem import MLADecode


def supports(problem: MLADecode, device: Device) -> str | None:
    """None, or the limit that this problem or device is past."""
    if device.kind != "cpu":
        return "flash-attention SDPA on a GPU takes head dimensions up to 256; absorbed MLA has 576"
    return None


def attend(
    q: torch.Tensor, kv: torch.Tensor, mask: torch.Tensor | None, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """`_sdpa.Attend` by flash attention."""
    attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu  # noqa: SLF001 - the public function drops the LSE
    if mask is not None:
        mask = mask.expand(q.shape[0], 1, *mask.shape)
    out, lse = attention(q, kv, kv, attn_mask=mask, scale=scale)
    return out, lse


KERNEL = Kernel(
    origin=Origin.VENDOR,
    tasks=("decode",),
    supports=supports,
    plan=_sdpa.plan,
    run=partial(_sdpa.run_with, attend),
    version=lambda: torch.__version__,
)
