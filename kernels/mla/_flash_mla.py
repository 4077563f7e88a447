"""FlashMLA's dense decode, whichever package brings it: the two builds are kernels of their own, one file each.

Source: DeepSeek's FlashMLA, flash_mla/flash_mla_interface.py. Its scheduler's metadata are a by-product of the first
call, so `plan` makes that call on made-up data: zero queries, and a block table that names one page of zeros only.
The metadata depend on the shapes and on seq_lens, and on nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from .problem import HEAD_DIM, KV_LORA_RANK, MLADecode

if TYPE_CHECKING:
    from ..device import Device
    from ..problem import Inputs, Outputs


@dataclass(frozen=True)
class Plan:
    """A build of FlashMLA, and its scheduling of one batch."""

    problem: MLADecode
    flash_mla: Any
    """The module with `flash_mla_with_kvcache`."""
    block_table: torch.Tensor
    seq_lens: torch.Tensor
    metadata: Any
    """FlashMLASchedMeta, filled."""


def supports(problem: MLADecode, device: Device) -> str | None:
    """None, or the limit that this problem or device is past."""
    if device.compute_capability != 90:
        return f"FlashMLA's dense decode is written for sm_90; this is {device.arch}"
    if problem.page_size != 64:
        return f"FlashMLA wants pages of 64 tokens; these have {problem.page_size}"
    if problem.kv_dtype != problem.dtype:
        return f"FlashMLA's dense decode wants a {problem.dtype} cache; this one is {problem.kv_dtype}"
    if problem.lengths == "empties":
        return "FlashMLA gives queries that see no token an lse of +inf, where the reference has -inf"
    return None


def plan(flash_mla: Any, problem: MLADecode, plan_inputs: Inputs) -> Plan:
    """Have the scheduler's metadata made by a call on made-up data."""
    block_table, seq_lens = plan_inputs["block_table"], plan_inputs["seq_lens"]
    dtype, where = getattr(torch, problem.dtype), seq_lens.device
    planned = Plan(problem, flash_mla, block_table, seq_lens, flash_mla.get_mla_metadata()[0])
    q = torch.zeros((problem.batch, problem.seq_len_q, problem.num_heads, HEAD_DIM), dtype=dtype, device=where)
    page = torch.zeros((1, problem.page_size, HEAD_DIM), dtype=dtype, device=where)
    _decode(planned, q, page, torch.zeros_like(block_table))
    return planned


def run(inputs: Inputs, plan: Plan) -> Outputs:
    """One call; FlashMLA launches the attention and the reduction over its splits."""
    out, lse = _decode(plan, inputs["q"], inputs["kv_cache"], plan.block_table)
    return {"out": out, "lse": lse.transpose(1, 2).contiguous()}  # a view: its memory is [batch, seq_len_q, heads]


def _decode(
    plan: Plan, q: torch.Tensor, kv_cache: torch.Tensor, block_table: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    out, lse = plan.flash_mla.flash_mla_with_kvcache(
        q,
        kv_cache.unsqueeze(2),
        block_table,
        plan.seq_lens,
        KV_LORA_RANK,
        plan.metadata,
        softmax_scale=plan.problem.softmax_scale,
        causal=plan.problem.seq_len_q > 1,
    )
    return out, lse
