"""PyTorch's memory-efficient SDPA (CUTLASS; AOTriton on ROCm) on gathered pages."""

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
    if device.kind == "cpu":
        return "memory-efficient SDPA wants a GPU"
    return None


def attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """`_decode_sdpa.Attend` by memory-efficient attention."""
    wide = None if mask is None else mask.expand(q.shape[0], q.shape[1], *mask.shape)
    attention = torch.ops.aten._scaled_dot_product_efficient_attention  # noqa: SLF001 - the public function drops the LSE
    out, lse, *_ = attention(q, k, v, wide, True, scale=scale)
    return out, lse[..., : q.shape[2]]  # its rows are padded


KERNEL = Kernel(
    origin=Origin.VENDOR,
    tasks=("decode", "tree"),
    supports=supports,
    plan=_decode_sdpa.plan,
    run=partial(_decode_sdpa.run_with, attend),
    version=lambda: torch.__version__,
)
