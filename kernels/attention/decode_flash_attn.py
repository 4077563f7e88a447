"""FlashAttention-2's `flash_attn_with_kvcache` on a paged cache, whose pages must hold multiples of 256 tokens.

Source: flash-attn 2, flash_attn/flash_attn_interface.py and csrc/flash_attn/flash_api.cpp.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ..installed import module_version
from ..kernel import Kernel, Origin
from ..problem import Inputs, Outputs
from ._decode_problem import PagedDecode

if TYPE_CHECKING:
    from ..device import Device

PAGE_MULTIPLE = 256
MOST_HEAD_DIM = 256


@dataclass(frozen=True)
class Plan:
    """What a call needs besides the data."""

    problem: PagedDecode
    block_table: torch.Tensor
    seq_lens: torch.Tensor


def supports(problem: PagedDecode, device: Device) -> str | None:
    """None, or the limit that this problem or device is past."""
    if device.kind == "cpu" or (device.kind == "cuda" and device.compute_capability < 80):
        return f"FlashAttention-2 wants a GPU, NVIDIA's from compute capability 8.0 on; this is {device.arch}"
    if problem.page_size % PAGE_MULTIPLE:
        return f"FlashAttention-2 wants pages of multiples of 256 tokens; these have {problem.page_size}"
    if problem.head_dim % 8 or problem.head_dim > MOST_HEAD_DIM:
        return f"FlashAttention-2 takes multiples of 8 up to 256 as head dimension; these have {problem.head_dim}"
    if problem.is_fp8:
        return f"FlashAttention-2 wants queries of the cache's dtype; these are {problem.dtype} and {problem.kv_dtype}"
    if problem.lengths == "empties":
        return "FlashAttention-2 gives queries that see no token an lse of +inf, where the reference has -inf"
    return None


def plan(problem: PagedDecode, plan_inputs: Inputs, device: Device) -> Plan:
    """FlashAttention-2 plans nothing itself."""
    return Plan(problem, plan_inputs["block_table"], plan_inputs["seq_lens"])


def run(inputs: Inputs, plan: Plan) -> Outputs:
    """One call, and the transposition of the LSE."""
    from flash_attn import flash_attn_with_kvcache

    out, lse = flash_attn_with_kvcache(
        inputs["q"],
        inputs["k_cache"],
        inputs["v_cache"],
        cache_seqlens=plan.seq_lens,
        block_table=plan.block_table,
        softmax_scale=plan.problem.softmax_scale,
        causal=True,
        return_softmax_lse=True,
    )
    return {"out": out, "lse": lse.transpose(1, 2).contiguous()} if plan.problem.with_lse else {"out": out}


KERNEL = Kernel(
    origin=Origin.VENDOR,
    tasks=("decode",),
    supports=supports,
    requires=("flash_attn",),
    plan=plan,
    run=run,
    version=module_version("flash_attn"),
)
