"""PyTorch's flash-attention SDPA on gathered pages; on a GPU for one query a sequence, as it takes no mask there."""

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
    if device.kind != "cpu" and (problem.seq_len_q > 1 or problem.task == "tree"):
        return "flash-attention SDPA on a GPU takes no mask, which several queries of a sequence need"
    if device.kind == "cuda" and device.compute_capability < 80:
        return f"flash-attention SDPA wants an NVIDIA GPU of compute capability 8.0 or more; this is {device.arch}"
    return None


def attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """`_decode_sdpa.Attend` by flash attention."""
    if q.is_cpu:
        on_cpu = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu  # noqa: SLF001 - the public function drops the LSE
        wide = None if mask is None else mask.expand(q.shape[0], 1, *mask.shape)
        out, lse = on_cpu(q, k, v, attn_mask=wide, scale=scale)
        return out, lse
    out, lse, *_ = torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, scale=scale)  # noqa: SLF001 - likewise
    return out, lse


KERNEL = Kernel(
    origin=Origin.VENDOR,
    tasks=("decode", "tree"),
    supports=supports,
    plan=_decode_sdpa.plan,
    run=partial(_decode_sdpa.run_with, attend),
    version=lambda: torch.__version__,
)
