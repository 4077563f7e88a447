"""PyTorch's math SDPA: products and a softmax, with all scores in memory. It runs everywhere.

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
    from ._prefill_problem import AttentionPrefill

MAX_WORKSPACE_BYTES = 16 * 10**9
SCORE_BYTES = 20
"""Scores, their softmax and its copy, in float32; for the LSE the scores again, scaled."""


def supports(problem: AttentionPrefill, device: Device) -> str | None:
    """None, or the limit that this problem or device is past."""
    sequences = problem.sequences()
    at_once = sequences if problem.is_uniform else [max(sequences, key=lambda lengths: lengths[0] * lengths[1])]
    workspace_bytes = sum(q * kv for q, kv in at_once) * problem.num_heads * SCORE_BYTES
    if workspace_bytes > MAX_WORKSPACE_BYTES:
        return (
            f"its scores would take {workspace_bytes / 1e9:.0f} GB, "
            f"more than the {MAX_WORKSPACE_BYTES / 1e9:.0f} GB that this adapter allows itself"
        )
    return None


def attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: torch.Tensor | None,
    is_causal: bool,
    problem: AttentionPrefill,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """`_prefill_sdpa.Attend` by the math backend."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with sdpa_kernel(SDPBackend.MATH):
        out = torch.nn.functional.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=is_causal, scale=problem.softmax_scale, enable_gqa=problem.group > 1
        )
    if not problem.return_lse:
        return out, None
    scores = q.float() @ k.float().repeat_interleave(problem.group, 1).transpose(-1, -2) * problem.softmax_scale
    if is_causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
    if mask is not None:
        scores.masked_fill_(~mask, float("-inf"))
    return out, torch.logsumexp(scores, dim=-1)


KERNEL = Kernel(
    origin=Origin.VENDOR,
    tasks=("prefill",),
    supports=supports,
    plan=_prefill_sdpa.plan,
    run=partial(_prefill_sdpa.run_with, attend),
    version=lambda: torch.__version__,
)
