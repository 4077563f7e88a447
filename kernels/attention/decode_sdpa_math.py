"""PyTorch's math SDPA on gathered pages: products and a softmax in float32. It runs everywhere.

It has no LSE to give, so that takes a second product of queries and keys.
"""

from __future__ import annotations

from functools import partial

import torch

from ..kernel import Kernel, Origin
from . import _decode_sdpa


def attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """`_decode_sdpa.Attend` by the math backend."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    # The math backend makes float32 copies of 16-bit inputs itself; made here, the LSE's product can use them too.
    q32, k32, mask32 = q.float(), k.float(), None if mask is None else mask.float()
    with sdpa_kernel(SDPBackend.MATH):
        out = torch.nn.functional.scaled_dot_product_attention(q32, k32, v.float(), attn_mask=mask32, scale=scale)
    scores = q32 @ k32.transpose(-1, -2) * scale
    return out.to(q.dtype), torch.logsumexp(scores if mask32 is None else scores + mask32, dim=-1)


KERNEL = Kernel(
    origin=Origin.VENDOR,
    tasks=("decode", "tree"),
    plan=_decode_sdpa.plan,
    run=partial(_decode_sdpa.run_with, attend),
    version=lambda: torch.__version__,
)
