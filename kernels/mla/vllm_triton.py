"""vLLM's Triton decode attention, the public Triton kernel for MLA. Split KV: one kernel, then a reduction.

Source: vLLM's vllm/v1/attention/ops/triton_decode_attention.py, called and given its number of splits as in
backends/mla/triton_mla.py. It knows one query a sequence, so queries of one sequence become sequences of their own:
query i sees seq_len - seq_len_q + i + 1 tokens of the same pages. An e4m3 cache is converted as it is loaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ..installed import vllm_version
from ..kernel import Kernel, Origin
from .problem import HEAD_DIM, KV_LORA_RANK, MLADecode

if TYPE_CHECKING:
    from ..device import Device
    from ..problem import Inputs, Outputs

MIN_TOKENS_PER_SPLIT = 512  # vLLM's
MAX_SPLITS_PER_SM = 2  # vLLM's
MAX_OFFSET = 2**31 - 1  # offsets are 32-bit products in the kernels


@dataclass(frozen=True)
class Plan:
    """What a call needs besides the data."""

    problem: MLADecode
    num_kv_splits: int
    block_table: torch.Tensor
    """[queries, max_pages]; a query is one of one sequence."""
    seq_lens: torch.Tensor
    """[queries]: the tokens that each query sees."""
    kv_scale: torch.Tensor
    """[] float32, 1."""


def supports(problem: MLADecode, device: Device) -> str | None:
    """None, or the limit that this problem or device is past."""
    if device.kind == "cpu":
        return "vLLM's Triton decode attention wants a GPU"
    if problem.lengths == "empties":
        return "vLLM's Triton decode attention divides by zero for queries that see no token"
    cache_elements = problem.batch * problem.max_pages * problem.page_size * HEAD_DIM
    queries = problem.batch * problem.seq_len_q
    partial_elements = queries * problem.num_heads * num_kv_splits(problem, device) * (KV_LORA_RANK + 1)
    if max(cache_elements, partial_elements) > MAX_OFFSET:
        return "vLLM's Triton decode attention computes offsets in 32 bits; this cache or its workspace may be larger"
    return None


def num_kv_splits(problem: MLADecode, device: Device) -> int:
    """vLLM's rule: a power of two that leaves about 512 tokens a split, within twice the SMs."""
    ideal = max(1, problem.max_seq_len // MIN_TOKENS_PER_SPLIT)
    return min(1 << (ideal - 1).bit_length(), device.num_sms * MAX_SPLITS_PER_SM)


def plan(problem: MLADecode, plan_inputs: Inputs, device: Device) -> Plan:
    """Choose the splits; give each query a row of the block table."""
    block_table, seq_lens, seq_len_q = plan_inputs["block_table"], plan_inputs["seq_lens"], problem.seq_len_q
    if seq_len_q > 1:
        unseen = torch.arange(seq_len_q - 1, -1, -1, dtype=torch.int32, device=seq_lens.device)
        block_table = block_table.repeat_interleave(seq_len_q, dim=0)
        seq_lens = (seq_lens[:, None] - unseen).flatten()
    kv_scale = torch.ones((), dtype=torch.float32, device=seq_lens.device)
    return Plan(problem, num_kv_splits(problem, device), block_table, seq_lens, kv_scale)


def run(inputs: Inputs, plan: Plan) -> Outputs:
    """Both kernels, into fresh outputs and a fresh workspace."""
    from vllm.v1.attention.ops.triton_decode_attention import decode_attention_fwd

    q, kv_cache = inputs["q"].flatten(0, 1), inputs["kv_cache"].unsqueeze(2)
    queries, num_heads, _ = q.shape
    out = torch.empty((queries, num_heads, KV_LORA_RANK), dtype=q.dtype, device=q.device)
    lse = torch.empty((queries, num_heads), dtype=torch.float32, device=q.device)
    partial = torch.empty(
        (queries, num_heads, plan.num_kv_splits, KV_LORA_RANK + 1), dtype=torch.float32, device=q.device
    )
    decode_attention_fwd(
        q,
        kv_cache,
        kv_cache[..., :KV_LORA_RANK],
        out,
        lse,
        plan.block_table,
        plan.seq_lens,
        partial,
        plan.num_kv_splits,
        plan.problem.softmax_scale,
        plan.problem.page_size,
        k_scale=plan.kv_scale,
        v_scale=plan.kv_scale,
        is_mla=True,
    )
    rows = inputs["q"].shape[:-1]
    return {"out": out.view(*rows, KV_LORA_RANK), "lse": lse.view(rows)}


KERNEL = Kernel(
    origin=Origin.VENDOR,
    tasks=("decode",),
    supports=supports,
    requires=("vllm.v1.attention.ops.triton_decode_attention",),
    plan=plan,
    run=run,
    version=vllm_version,
)
