"""MLA prefill by PyTorch's math SDPA: products and a softmax, computed in float32. It runs everywhere, on few tokens.

It has no LSE to give, so that takes a second product of queries and keys.
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

MAX_SCORES_BYTES = 4 * 10**9


def supports(problem: MLAPrefill, device: Device) -> str | None:
    """None, or the limit that this problem or device is past."""
    at_once = problem.batch if problem.lengths == "equal" else 1
    scores_bytes = 4 * at_once * problem.num_heads * problem.seq_len_q * problem.seq_len_kv
    if scores_bytes > MAX_SCORES_BYTES:
        return f"math SDPA keeps all scores, {scores_bytes / 1e9:.0f} GB of float32, several times over"
    return None


def attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """`_prefill_sdpa.Attend` by the math backend."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    q32, k32, v32 = q.float(), k.float(), v.float()
    if mask is None:
        mask = torch.full((q.shape[2], k.shape[2]), float("-inf"), device=q.device).triu_(1)
    with sdpa_kernel(SDPBackend.MATH):
        out = torch.nn.functional.scaled_dot_product_attention(q32, k32, v32, attn_mask=mask.float(), scale=scale)
    return out.to(q.dtype), torch.logsumexp(q32 @ k32.transpose(-1, -2) * scale + mask, dim=-1)


KERNEL = Kernel(
    origin=Origin.VENDOR,
    tasks=("prefill",),
    supports=supports,
    plan=_prefill_sdpa.plan,
    run=partial(_prefill_sdpa.run_with, attend),
    version=lambda: torch.__version__,
)
