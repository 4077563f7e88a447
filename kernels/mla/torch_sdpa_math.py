"""PyTorch's math SDPA: products and a softmax, computed in float32 for 16-bit inputs. It runs everywhere.

It has no LSE to give, so that takes a second product of queries and keys.
"""

from __future__ import annotations

from functools import partial

import torch

from ..kernel import Kernel, Origin
from . import _sdpa
from .problem import KV_LORA_RANK


def attend(
    q: torch.Tensor, kv: torch.Tensor, mask: torch.Tensor | None, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """`_sdpa.Attend` by the math backend."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    # The math backend makes float32 copies of 16-bit inputs itself; made here, the LSE's product can use them too.
    q32, kv32, mask32 = q.float(), kv.float(), None if mask is None else mask.float()
    with sdpa_kernel(SDPBackend.MATH):
        out = torch.nn.functional.scaled_dot_product_attention(
            q32, kv32, kv32[..., :KV_LORA_RANK], attn_mask=mask32, scale=scale
        )
    scores = q32 @ kv32.transpose(-1, -2) * scale
    return out.to(q.dtype), torch.logsumexp(scores if mask32 is None else scores + mask32, dim=-1)


KERNEL = Kernel(
    origin=Origin.VENDOR,
    tasks=("decode",),
    plan=_sdpa.plan,
    run=partial(_sdpa.run_with, attend),
    version=lambda: torch.__version__,
)
