"""PyTorch's cuDNN SDPA on gathered pages."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch

from ..kernel import Kernel, Origin
from . import _decode_sdpa

if TYPE_CHECKING:
    from ..device import Device
    from ._decode_problem import PagedDecode


def supports(problem: PagedDecode, device: Device) -> str | None:
    """None, or the limit that this problem or device is past."""
    if device.kind != "cuda" or device.compute_capability < 80:
        return "cuDNN SDPA wants an NVIDIA GPU of compute capability 8.0 or more"
    if problem.head_dim % 8 or problem.head_dim > 128:
        return f"cuDNN SDPA takes multiples of 8 up to 128 as head dimension; these have {problem.head_dim}"
    return None


def attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """`_decode_sdpa.Attend` by cuDNN."""
    wide = None if mask is None else mask.expand(q.shape[0], q.shape[1], *mask.shape)
    attention = torch.ops.aten._scaled_dot_product_cudnn_attention  # noqa: SLF001 - the public function drops the LSE
    out, lse, *_ = attention(q, k, v, wide, True, scale=scale)
    return out, lse.view(q.shape[:-1])


KERNEL = Kernel(
    origin=Origin.VENDOR,
    tasks=("decode", "tree"),
    supports=supports,
    plan=_decode_sdpa.plan,
    run=partial(_decode_sdpa.run_with, attend),
    version=lambda: torch.__version__,
)
