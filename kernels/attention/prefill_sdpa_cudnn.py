"""PyTorch's cuDNN SDPA, through the public function: sequences of one length, without an LSE."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch

from ..kernel import Kernel, Origin
from . import _prefill_sdpa

if TYPE_CHECKING:
    from ..device import Device
    from ._prefill_problem import AttentionPrefill

MOST_HEAD_DIM = 128


def supports(problem: AttentionPrefill, device: Device) -> str | None:
    """None, or the limit that this problem or device is past."""
    if device.compute_capability < 80:
        return f"cuDNN SDPA wants an NVIDIA GPU of compute capability 8.0 or more; this is {device.arch}"
    if not problem.is_uniform:
        return "cuDNN SDPA takes sequences of one length; as one call for each it would be a loop in Python"
    if problem.window or (problem.causal and problem.seq_len_q != problem.seq_len_kv):
        return "SDPA's own causal mask has no window and is aligned to the top left; any other is a tensor to add"
    if problem.sees_nothing:
        return "cuDNN SDPA defines no output for queries that see no key"
    if problem.head_dim > MOST_HEAD_DIM:
        return f"cuDNN SDPA takes head dimensions of up to {MOST_HEAD_DIM}; these have {problem.head_dim}"
    return _prefill_sdpa.without_lse(problem)


def attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: torch.Tensor | None,
    is_causal: bool,
    problem: AttentionPrefill,
) -> tuple[torch.Tensor, None]:
    """`_prefill_sdpa.Attend` by cuDNN."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        out = torch.nn.functional.scaled_dot_product_attention(
            q, k, v, is_causal=is_causal, scale=problem.softmax_scale, enable_gqa=problem.group > 1
        )
    return out, None


KERNEL = Kernel(
    origin=Origin.VENDOR,
    tasks=("prefill",),
    supports=supports,
    plan=_prefill_sdpa.plan,
    run=partial(_prefill_sdpa.run_with, attend),
    version=lambda: torch.__version__,
)
