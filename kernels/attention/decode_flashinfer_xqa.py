"""FlashInfer's XQA (TensorRT-LLM's decode kernel), also for trees: it takes a bit mask of the drafts. No LSE.

Source: flashinfer 0.6, `xqa_batch_decode_with_kv_cache` in flashinfer/decode.py and flashinfer/xqa.py: pages of 16 to
128 tokens, sm_90, sm_100 and sm_120. An 8-bit cache makes it compute in 8 bits, queries too, so that is left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ..installed import flashinfer_version
from ..kernel import Kernel, Origin
from ..problem import Inputs, Outputs
from . import _decode_flashinfer
from ._decode_problem import PagedDecode

if TYPE_CHECKING:
    from ..device import Device

WORKSPACE_BYTES = 256 << 20
PAGE_SIZES = (16, 32, 64, 128)
WORD_BITS = 32


@dataclass(frozen=True)
class Plan:
    """What a call needs besides the data."""

    problem: PagedDecode
    workspace: torch.Tensor
    """Zeros at first; semaphores and partial results."""
    block_table: torch.Tensor
    seq_lens: torch.Tensor
    """[batch] uint32"""
    mask: torch.Tensor | None
    """[batch, seq_len_q, words of 16 bits] uint16: which of the sequence's queries each query sees."""


def supports(problem: PagedDecode, device: Device) -> str | None:
    """None, or the limit that this problem or device is past."""
    if problem.with_lse:
        return "FlashInfer's XQA gives no LSE"
    if device.compute_capability // 10 not in (9, 10, 12):
        return f"XQA is written for sm_90, sm_100 and sm_120; this is {device.arch}"
    if problem.is_fp8:
        return "XQA computes in 8 bits with an 8-bit cache, queries too"
    if problem.page_size not in PAGE_SIZES:
        return f"XQA wants pages of 16, 32, 64 or 128 tokens; these have {problem.page_size}"
    return _decode_flashinfer.head_dim_unsupported(problem)


def plan(problem: PagedDecode, plan_inputs: Inputs, device: Device) -> Plan:
    """Allocate the workspace, pack the mask where there is more than one query."""
    seq_lens = plan_inputs["seq_lens"]
    where, num_queries = seq_lens.device, problem.seq_len_q
    mask = None
    if num_queries > 1:
        seen = plan_inputs.get(
            "tree_mask", torch.ones((num_queries, num_queries), dtype=torch.bool, device=where).tril()
        )
        mask = packed_mask(seen).expand(problem.batch, -1, -1).contiguous()
    workspace = torch.zeros(WORKSPACE_BYTES, dtype=torch.uint8, device=where)
    return Plan(problem, workspace, plan_inputs["block_table"], seq_lens.view(torch.uint32), mask)


def packed_mask(seen: torch.Tensor) -> torch.Tensor:
    """[n, n] bool -> [n, 2 * ceil(n / 32)] uint16: column j is bit j % 16 of word j // 16."""
    num_words = (len(seen) + WORD_BITS - 1) // WORD_BITS
    bits = torch.nn.functional.pad(seen.long(), (0, num_words * WORD_BITS - len(seen)))
    weights = 2 ** torch.arange(WORD_BITS, device=seen.device)
    words = (bits.view(len(seen), num_words, WORD_BITS) * weights).sum(-1)  # [n, words] of 0 .. 2^32 - 1
    return words.to(torch.uint32).view(torch.uint16)


def run(inputs: Inputs, plan: Plan) -> Outputs:
    """One call into a fresh output."""
    from flashinfer.decode import xqa_batch_decode_with_kv_cache

    q, problem = inputs["q"], plan.problem
    out = torch.empty_like(q)
    one_query = problem.seq_len_q == 1
    xqa_batch_decode_with_kv_cache(
        q.flatten(0, 1),
        (inputs["k_cache"], inputs["v_cache"]),
        plan.workspace,
        plan.block_table,
        plan.seq_lens,
        problem.max_seq_len,
        bmm1_scale=problem.softmax_scale,
        bmm2_scale=1.0,
        out=out.flatten(0, 1) if one_query else out,
        kv_layout="NHD",
        q_len_per_req=problem.seq_len_q,
        mask=plan.mask,
    )
    return {"out": out}


KERNEL = Kernel(
    origin=Origin.VENDOR,
    tasks=("decode", "tree"),
    supports=supports,
    requires=("flashinfer",),
    plan=plan,
    run=run,
    version=flashinfer_version,
)
