"""PyTorch's FlexAttention on gathered pages, all sequences padded to the longest; its mask is a Python function.

FlexAttention is compiled by Inductor from a Triton template, for short queries the one that splits KV. That one takes
all queries of a KV head as one block, which must divide the block mask's 128: where there are more (a large tree), the
other template is asked for. On the CPU it gives no LSE.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ..inductor import compiled, warm_up
from ..kernel import Kernel, Origin
from ..problem import Inputs, Outputs
from ._decode_problem import PagedDecode
from ._decode_sdpa import gathered

if TYPE_CHECKING:
    from ..device import Device

LEAST_HEAD_DIM = 16
MOST_MASK_ELEMENTS = 1 << 31
MOST_SPLIT_ROWS = 128
"""Queries, times the heads of a group, that the template for short queries takes: the block mask's default size.
torch/_inductor/kernel/flex/flex_decoding.py passes over every configuration where there are more."""


@dataclass(frozen=True)
class Plan:
    """The compiled function, and what it takes besides the data."""

    problem: PagedDecode
    attend: Callable[..., Any]
    pages: torch.Tensor
    """[batch * max_pages] int32"""
    block_mask: Any


def supports(problem: PagedDecode, device: Device) -> str | None:
    """None, or the limit that this problem or device is past."""
    if device.kind == "cpu":
        return "FlexAttention gives no LSE on the CPU"
    if problem.head_dim < LEAST_HEAD_DIM:
        return f"FlexAttention takes head dimensions of 16 and more; these have {problem.head_dim}"
    if problem.batch * problem.seq_len_q * problem.max_seq_len > MOST_MASK_ELEMENTS:
        return "FlexAttention's block mask is made from the whole mask, which here has more than 2^31 elements"
    return None


def attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, block_mask: Any, scale: float, whole: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """(out [batch, num_heads, seq_len_q, d], lse [batch, num_heads, seq_len_q]); `whole`: without splits of KV."""
    from torch.nn.attention.flex_attention import flex_attention

    options: Any = {"FORCE_USE_FLEX_ATTENTION": True} if whole else None
    found = flex_attention(
        q, k, v, block_mask=block_mask, scale=scale, enable_gqa=True, return_lse=True, kernel_options=options
    )
    out, lse = found
    return out, lse


@functools.cache
def _compiled(problem: PagedDecode) -> Callable[..., Any]:
    return compiled(attend)


def plan(problem: PagedDecode, plan_inputs: Inputs, device: Device) -> Plan:
    """Make the block mask; compilation waits for the first `run`."""
    from torch.nn.attention.flex_attention import create_block_mask

    seq_lens, seq_len_q = plan_inputs["seq_lens"], problem.seq_len_q
    tree_mask = plan_inputs.get("tree_mask")

    def is_seen(b: torch.Tensor, h: torch.Tensor, query: torch.Tensor, token: torch.Tensor) -> torch.Tensor:
        own = token - (seq_lens[b] - seq_len_q)
        if tree_mask is None:
            return own <= query
        related = tree_mask[query, own.clamp(0, seq_len_q - 1)]
        return (own < 0) | ((own < seq_len_q) & related)

    tokens = problem.max_pages * problem.page_size
    block_mask = create_block_mask(is_seen, problem.batch, None, seq_len_q, tokens, device=seq_lens.device)
    return Plan(problem, _compiled(problem), plan_inputs["block_table"].flatten(), block_mask)


def run(inputs: Inputs, plan: Plan) -> Outputs:
    """Gather, attend, and lay the outputs out as the problem has them."""
    q, problem = inputs["q"], plan.problem
    k, v = (
        gathered(inputs[name], plan.pages, q.dtype)
        .view(problem.batch, -1, problem.num_kv_heads, problem.head_dim)
        .transpose(1, 2)
        for name in ("k_cache", "v_cache")
    )
    whole = problem.seq_len_q * problem.group > MOST_SPLIT_ROWS
    scale = problem.softmax_scale * problem.k_scale
    out, lse = plan.attend(q.transpose(1, 2), k, v, plan.block_mask, scale, whole)
    out = (out * problem.v_scale if problem.is_fp8 else out).transpose(1, 2).contiguous()
    return {"out": out, "lse": lse.transpose(1, 2).contiguous()} if problem.with_lse else {"out": out}


KERNEL = Kernel(
    origin=Origin.VENDOR,
    tasks=("decode", "tree"),
    supports=supports,
    plan=plan,
    run=run,
    warm_up=warm_up,
    version=lambda: torch.__version__,
)
