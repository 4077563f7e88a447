"""FlashInfer's `BatchMLAPagedAttentionWrapper`; its backends are kernels of their own, one file each.

Source: flashinfer 0.6, flashinfer/mla. Any page size and head count. The LSE is natural on request, a sequence
without a token gives out = 0 and lse = -inf. A module is compiled for its dtypes at the first plan.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ..paging import packed_pages, uniform_indptr
from .problem import KV_LORA_RANK, QK_ROPE_HEAD_DIM, MLADecode

if TYPE_CHECKING:
    from ..device import Device
    from ..problem import Inputs, Outputs

WORKSPACE_BYTES = 128 << 20  # what FlashInfer's documentation recommends


@dataclass(frozen=True)
class Plan:
    """A wrapper that has planned."""

    problem: MLADecode
    wrapper: Any


def dtypes_unsupported(problem: MLADecode) -> str | None:
    """None, or which dtypes the kernels would want."""
    if problem.kv_dtype != problem.dtype:
        return f"FlashInfer's MLA kernels want a {problem.dtype} cache; this one is {problem.kv_dtype}"
    return None


def plan(problem: MLADecode, plan_inputs: Inputs, device: Device, *, backend: str) -> Plan:
    """Make a wrapper, and have it plan its work for these lengths and pages."""
    import flashinfer

    where = plan_inputs["seq_lens"].device
    wrapper = flashinfer.mla.BatchMLAPagedAttentionWrapper(
        torch.empty(WORKSPACE_BYTES, dtype=torch.uint8, device=where), backend=backend
    )
    kv_indptr, pages = packed_pages(plan_inputs, problem.page_size)
    wrapper.plan(
        uniform_indptr(problem.batch, problem.seq_len_q, where),
        kv_indptr,
        pages,
        plan_inputs["seq_lens"],
        problem.num_heads,
        KV_LORA_RANK,
        QK_ROPE_HEAD_DIM,
        problem.page_size,
        problem.seq_len_q > 1,  # causal
        problem.softmax_scale,
        getattr(torch, problem.dtype),
        getattr(torch, problem.kv_dtype),
    )
    return Plan(problem, wrapper)


def run(inputs: Inputs, plan: Plan) -> Outputs:
    """One call: the kernel reads both parts of a cache row by strides and writes into fresh outputs."""
    q, kv_cache = inputs["q"], inputs["kv_cache"]
    rows = q.shape[:-1]
    queries = q.view(-1, plan.problem.num_heads, q.shape[-1])
    out = torch.empty((*rows, KV_LORA_RANK), dtype=q.dtype, device=q.device)
    lse = torch.empty(rows, dtype=torch.float32, device=q.device)
    plan.wrapper.run(
        queries[..., :KV_LORA_RANK],
        queries[..., KV_LORA_RANK:],
        kv_cache[..., :KV_LORA_RANK],
        kv_cache[..., KV_LORA_RANK:],
        out=out.view(-1, plan.problem.num_heads, KV_LORA_RANK),
        lse=lse.view(-1, plan.problem.num_heads),
        return_lse=True,
        return_lse_base_on_e=True,
    )
    return {"out": out, "lse": lse}
