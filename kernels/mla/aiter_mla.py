"""AITER's assembly MLA decode for AMD GPUs. Untested: needs an MI300X (or MI325X, MI350X, MI355X).

Written from AITER's source, aiter/mla.py and op_tests/test_mla.py: bf16, 16 or 128 heads, up to 4 queries a sequence,
in its form that splits KV and reduces in a second kernel. The cache is viewed as pages of one token, the layout that
every version of AITER takes; its rows are listed in `plan`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ..installed import package_version
from ..kernel import Kernel, Origin
from ..paging import packed_tokens, uniform_indptr
from .problem import HEAD_DIM, KV_LORA_RANK, MLADecode

if TYPE_CHECKING:
    from ..device import Device
    from ..problem import Inputs, Outputs

ARCHS = ("gfx942", "gfx950")
NUM_HEADS = (16, 128)
MAX_SEQ_LEN_Q = 4


@dataclass(frozen=True)
class Plan:
    """The layout of one batch."""

    problem: MLADecode
    query_starts: torch.Tensor
    """[batch + 1] int32"""
    token_starts: torch.Tensor
    """[batch + 1] int32"""
    tokens: torch.Tensor
    """[token_starts[-1]] int32: rows of the cache."""
    last_page_lens: torch.Tensor
    """[batch] int32: tokens in each sequence's last page, hence 1."""


def supports(problem: MLADecode, device: Device) -> str | None:
    """None, or the limit that this problem or device is past."""
    if device.arch not in ARCHS:
        return f"AITER's MLA decode is written for {' and '.join(ARCHS)}; this is {device.arch}"
    if (problem.dtype, problem.kv_dtype) != ("bfloat16", "bfloat16"):
        return f"AITER's MLA decode wants bfloat16 queries and cache; these are {problem.dtype} and {problem.kv_dtype}"
    if problem.num_heads not in NUM_HEADS:
        return f"AITER's MLA decode has kernels for 16 and 128 heads; this problem has {problem.num_heads}"
    if problem.seq_len_q > MAX_SEQ_LEN_Q:
        return f"AITER's MLA decode takes up to {MAX_SEQ_LEN_Q} queries a sequence; these are {problem.seq_len_q}"
    if problem.lengths == "empties":
        return "AITER's MLA decode divides by zero for sequences without a token"
    return None


def plan(problem: MLADecode, plan_inputs: Inputs, device: Device) -> Plan:
    """List every sequence's rows of the cache."""
    where = plan_inputs["seq_lens"].device
    token_starts, tokens = packed_tokens(plan_inputs, problem.page_size)
    query_starts = uniform_indptr(problem.batch, problem.seq_len_q, where)
    return Plan(problem, query_starts, token_starts, tokens, torch.ones(problem.batch, dtype=torch.int32, device=where))


def run(inputs: Inputs, plan: Plan) -> Outputs:
    """One call: attention in assembly, then AITER's reduction."""
    from aiter.mla import mla_decode_fwd

    q = inputs["q"].flatten(0, 1)
    out = torch.empty((*q.shape[:-1], KV_LORA_RANK), dtype=q.dtype, device=q.device)
    _, lse = mla_decode_fwd(
        q,
        inputs["kv_cache"].view(-1, 1, 1, HEAD_DIM),
        out,
        plan.query_starts,
        plan.token_starts,
        plan.tokens,
        plan.last_page_lens,
        plan.problem.seq_len_q,
        sm_scale=plan.problem.softmax_scale,
        return_lse=True,
    )
    rows = inputs["q"].shape[:-1]
    return {"out": out.view(*rows, KV_LORA_RANK), "lse": lse.view(rows)}


KERNEL = Kernel(
    origin=Origin.VENDOR,
    tasks=("decode",),
    supports=supports,
    requires=("aiter.mla",),
    plan=plan,
    run=run,
    version=package_version("aiter"),
)
