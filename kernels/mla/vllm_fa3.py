"""FlashAttention-3 as vLLM builds it, on its path for MLA: q and k are the rope columns, `q_v` and v the latent.

Source: vLLM's backends/mla/flashattn_mla.py. The kernel lays the LSE out as [num_heads, queries]; its transposition
to [batch, seq_len_q, num_heads] is a kernel of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ..installed import vllm_version
from ..kernel import Kernel, Origin
from ..paging import uniform_indptr
from .problem import KV_LORA_RANK, QK_ROPE_HEAD_DIM, MLADecode

if TYPE_CHECKING:
    from ..device import Device
    from ..problem import Inputs, Outputs


@dataclass(frozen=True)
class Plan:
    """What a call needs besides the data."""

    problem: MLADecode
    block_table: torch.Tensor
    seq_lens: torch.Tensor
    cu_seqlens_q: torch.Tensor
    """[batch + 1] int32"""
    scheduler_metadata: torch.Tensor


def supports(problem: MLADecode, device: Device) -> str | None:
    """None, or the limit that this problem or device is past."""
    if device.compute_capability != 90:
        return f"FlashAttention-3 takes value heads of 512 on sm_90 only; this is {device.arch}"
    if problem.kv_dtype != problem.dtype:
        return f"FlashAttention-3 wants a {problem.dtype} cache for MLA; this one is {problem.kv_dtype}"
    return None


def plan(problem: MLADecode, plan_inputs: Inputs, device: Device) -> Plan:
    """Have FlashAttention-3's scheduler prepare its metadata."""
    from vllm.vllm_flash_attn.flash_attn_interface import get_scheduler_metadata

    seq_lens = plan_inputs["seq_lens"]
    cu_seqlens_q = uniform_indptr(problem.batch, problem.seq_len_q, seq_lens.device)
    metadata = get_scheduler_metadata(
        batch_size=problem.batch,
        max_seqlen_q=problem.seq_len_q,
        max_seqlen_k=problem.max_seq_len,
        num_heads_q=problem.num_heads,
        num_heads_kv=1,
        headdim=QK_ROPE_HEAD_DIM,
        headdim_v=KV_LORA_RANK,
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

    q, kv_cache = inputs["q"].flatten(0, 1), inputs["kv_cache"].unsqueeze(2)
    out, lse = flash_attn_varlen_func(
        q=q[..., KV_LORA_RANK:],
        k=kv_cache[..., KV_LORA_RANK:],
        v=kv_cache[..., :KV_LORA_RANK],
        q_v=q[..., :KV_LORA_RANK],
        max_seqlen_q=plan.problem.seq_len_q,
        cu_seqlens_q=plan.cu_seqlens_q,
        max_seqlen_k=plan.problem.max_seq_len,
        seqused_k=plan.seq_lens,
        block_table=plan.block_table,
        softmax_scale=plan.problem.softmax_scale,
        causal=True,
        return_softmax_lse=True,
        fa_version=3,
        scheduler_metadata=plan.scheduler_metadata,
    )
    rows = inputs["q"].shape[:-1]
    return {"out": out.view(*rows, KV_LORA_RANK), "lse": lse.t().contiguous().view(rows)}


KERNEL = Kernel(
    origin=Origin.VENDOR,
    tasks=("decode",),
    supports=supports,
    requires=("vllm.vllm_flash_attn._vllm_fa3_C",),
    plan=plan,
    run=run,
    version=vllm_version,
)
