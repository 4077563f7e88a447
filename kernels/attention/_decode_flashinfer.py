"""FlashInfer's wrappers for paged caches; each way to use them is a kernel of its own, one file each.

Source: flashinfer 0.6, flashinfer/decode.py and prefill.py. Any page size, layout NHD. The LSE is to the base 2. A
module is compiled for its dtypes and head dimension at the first plan. `k_scale` goes into the softmax scale.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ..paging import packed_pages, uniform_indptr
from ..problem import Inputs, Outputs
from ._decode_problem import PagedDecode

if TYPE_CHECKING:
    from ..device import Device
    from ._prefill_problem import AttentionPrefill

WORKSPACE_BYTES = 256 << 20
"""Twice what FlashInfer's documentation recommends: 128 MB are too few for 1024 rows of 128 in many parts."""
OUTPUT_FACTORS = {"lse": math.log(2)}
HEAD_DIMS = (64, 128, 256)


@dataclass(frozen=True)
class Plan:
    """A wrapper that has planned."""

    problem: PagedDecode
    wrapper: Any


def head_dim_unsupported(problem: PagedDecode | AttentionPrefill) -> str | None:
    """None, or which head dimensions the kernels would want."""
    if problem.head_dim not in HEAD_DIMS:
        return (
            f"FlashInfer's kernels are compiled for head dimensions of 64, 128 and 256; these have {problem.head_dim}"
        )
    return None


def plan_decode(problem: PagedDecode, plan_inputs: Inputs, device: Device, *, backend: str) -> Plan:
    """Have `BatchDecodeWithPagedKVCacheWrapper` plan, with tensor cores: one query a sequence."""
    import flashinfer

    wrapper = flashinfer.BatchDecodeWithPagedKVCacheWrapper(
        _workspace(plan_inputs), "NHD", use_tensor_cores=True, backend=backend
    )
    wrapper.plan(
        *_pages(problem, plan_inputs),
        problem.num_heads,
        problem.num_kv_heads,
        problem.head_dim,
        problem.page_size,
        q_data_type=getattr(torch, problem.dtype),
        kv_data_type=getattr(torch, problem.kv_dtype),
        sm_scale=problem.softmax_scale * problem.k_scale,
    )
    return Plan(problem, wrapper)


def plan_prefill(problem: PagedDecode, plan_inputs: Inputs, device: Device, *, backend: str) -> Plan:
    """Have `BatchPrefillWithPagedKVCacheWrapper` plan: causal, or with the mask of a tree written out."""
    import flashinfer

    wrapper = flashinfer.BatchPrefillWithPagedKVCacheWrapper(_workspace(plan_inputs), "NHD", backend=backend)
    wrapper.plan(
        uniform_indptr(problem.batch, problem.seq_len_q, plan_inputs["seq_lens"].device),
        *_pages(problem, plan_inputs),
        problem.num_heads,
        problem.num_kv_heads,
        problem.head_dim,
        problem.page_size,
        custom_mask=_whole_mask(problem, plan_inputs) if "tree_mask" in plan_inputs else None,
        causal=True,
        q_data_type=getattr(torch, problem.dtype),
        kv_data_type=getattr(torch, problem.kv_dtype),
        sm_scale=problem.softmax_scale * problem.k_scale,
    )
    return Plan(problem, wrapper)


def run(inputs: Inputs, plan: Plan) -> Outputs:
    """One call, into fresh outputs; with an 8-bit cache `v_scale` is a further kernel of the wrapper's."""
    q, problem = inputs["q"], plan.problem
    out = torch.empty_like(q)
    lse = torch.empty(q.shape[:-1], dtype=torch.float32, device=q.device)
    plan.wrapper.run(
        q.flatten(0, 1),
        (inputs["k_cache"], inputs["v_cache"]),
        v_scale=problem.v_scale if problem.is_fp8 else None,
        out=out.flatten(0, 1),
        lse=lse.flatten(0, 1),
        return_lse=True,
    )
    return {"out": out, "lse": lse} if problem.with_lse else {"out": out}


def _workspace(plan_inputs: Inputs) -> torch.Tensor:
    return torch.zeros(WORKSPACE_BYTES, dtype=torch.uint8, device=plan_inputs["seq_lens"].device)


def _pages(problem: PagedDecode, plan_inputs: Inputs) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(indptr [batch + 1], pages, tokens in each sequence's last page [batch]: 0 of an empty one)."""
    indptr, pages = packed_pages(plan_inputs, problem.page_size)
    seq_lens = plan_inputs["seq_lens"]
    last_page_lens = torch.where(seq_lens > 0, (seq_lens - 1) % problem.page_size + 1, 0).int()
    return indptr, pages, last_page_lens


def _whole_mask(problem: PagedDecode, plan_inputs: Inputs) -> torch.Tensor:
    """[sum of seq_len_q * seq_len] bool: every sequence's mask, prefix and tree, one after the other."""
    tree = plan_inputs["tree_mask"]
    masks = []
    for length in plan_inputs["seq_lens"].tolist():
        prefix = torch.ones(
            (problem.seq_len_q, max(0, length - problem.seq_len_q)), dtype=torch.bool, device=tree.device
        )
        masks.append(torch.cat([prefix, tree], 1).flatten() if length else prefix.flatten())
    return torch.cat(masks)
