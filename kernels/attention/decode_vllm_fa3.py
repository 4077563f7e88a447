"""FlashAttention-3 as vLLM builds it, on a paged cache.

Source: vLLM's vllm/v1/attention/backends/flash_attn.py. The kernel lays the LSE out as [num_heads, queries]; its
transposition to [batch, seq_len_q, num_heads] is a kernel of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ..installed import vllm_version
from ..kernel import Kernel, Origin
from ..paging import uniform_indptr
from ..problem import Inputs, Outputs
from ._decode_problem import PagedDecode

if TYPE_CHECKING:
    from ..device import Device

MOST_HEAD_DIM = 256


@dataclass(frozen=True)
class Plan:
    """What a call needs besides the data."""

    problem: PagedDecode
    block_table: torch.Tensor
    seq_lens: torch.Tensor
    cu_seqlens_q: torch.Tensor
    """[batch + 1] int32"""
    scheduler_metadata: torch.Tensor


def supports(problem: PagedDecode, device: Device) -> str | None:
    """None, or the limit that this problem or device is past."""
    if device.compute_capability != 90:
        return f"vLLM builds FlashAttention-3 for sm_90; this is {device.arch}"
    if problem.is_fp8:
        return f"FlashAttention-3 wants queries of the cache's dtype; these are {problem.dtype} and {problem.kv_dtype}"
    if problem.head_dim % 8 or problem.head_dim > MOST_HEAD_DIM:
        return f"FlashAttention-3 takes multiples of 8 up to 256 as head dimension; these have {problem.head_dim}"
    return None


def plan(problem: PagedDecode, plan_inputs: Inputs, device: Device) -> Plan:
    """Have FlashAttention-3's scheduler prepare its metadata."""
    from vllm.vllm_flash_attn.flash_attn_interface import get_scheduler_metadata

    seq_lens = plan_inputs["seq_lens"]
    cu_seqlens_q = uniform_indptr(problem.batch, problem.seq_len_q, seq_lens.device)
    metadata = get_scheduler_metadata(
        batch_size=problem.batch,
        max_seqlen_q=problem.seq_len_q,
        max_seqlen_k=problem.max_seq_len,
        num_heads_q=problem.num_heads,
        num_heads_kv=problem.num_kv_heads,
        headdim=problem.head_dim,
        cache_seqlens=seq_lens,
        qkv_dtype=getattr(torch, problem.dtype),
        page_size=problem.page_size,
        cu_seqlens_q=cu_seqlens_q,
        causal=True,
    )
    return Plan(problem, plan_inputs["block_table"], seq_lens, cu_seqlens_q, metadata)


def run(inputs: Inputs, plan: Plan) -> Outputs:
    """One call, and the transposition of the LSE."""
    from vllm.vllm_flash_attn.flash_attn_interface import flash_attn_varlen_func

    q, problem = inputs["q"], plan.problem
    found = flash_attn_varlen_func(
        q=q.flatten(0, 1),
        k=inputs["k_cache"],
        v=inputs["v_cache"],
        max_seqlen_q=problem.seq_len_q,
        cu_seqlens_q=plan.cu_seqlens_q,
        max_seqlen_k=problem.max_seq_len,
        seqused_k=plan.seq_lens,
        block_table=plan.block_table,
        softmax_scale=problem.softmax_scale,
        causal=True,
        return_softmax_lse=problem.with_lse,
        fa_version=3,
        scheduler_metadata=plan.scheduler_metadata,
    )
    if not problem.with_lse:
        return {"out": found.view(q.shape)}
    out, lse = found
    return {"out": out.view(q.shape), "lse": lse.t().contiguous().view(q.shape[:-1])}


KERNEL = Kernel(
    origin=Origin.VENDOR,
    tasks=("decode",),
    supports=supports,
    requires=("vllm.vllm_flash_attn._vllm_fa3_C",),
    plan=plan,
    run=run,
    version=vllm_version,
)
