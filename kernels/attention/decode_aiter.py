"""AITER's paged attention for AMD GPUs, in its form for packed pages: it takes the layout NHD. No LSE.

Written from AITER's source, aiter/ops/attention.py (`paged_attention_ragged`) and op_tests/test_pa_ragged.py: one
query a sequence, partitions of 256 tokens that a second kernel reduces.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ..installed import package_version
from ..kernel import Kernel, Origin
from ..paging import packed_pages
from ..problem import Inputs, Outputs
from ._decode_problem import PagedDecode

if TYPE_CHECKING:
    from ..device import Device

ARCHS = ("gfx942", "gfx950")
HEAD_DIMS = (64, 128)
PAGE_SIZES = (1, 16, 32, 64)
PARTITION_SIZE = 256


@dataclass(frozen=True)
class Plan:
    """The layout of one batch, and what a call needs besides."""

    problem: PagedDecode
    page_starts: torch.Tensor
    """[batch + 1] int32"""
    pages: torch.Tensor
    """[page_starts[-1]] int32"""
    last_page_lens: torch.Tensor
    """[batch] int32: tokens in each sequence's last page."""
    max_num_partitions: int
    k_scale: torch.Tensor
    """[1] float32"""
    v_scale: torch.Tensor


def supports(problem: PagedDecode, device: Device) -> str | None:
    """None, or the limit that this problem or device is past."""
    if problem.with_lse:
        return "AITER's paged attention gives no LSE"
    if device.arch not in ARCHS:
        return f"AITER's paged attention is written for {' and '.join(ARCHS)}; this is {device.arch}"
    if problem.seq_len_q > 1:
        return f"AITER's paged attention takes one query a sequence here; these are {problem.seq_len_q}"
    if problem.head_dim not in HEAD_DIMS or problem.page_size not in PAGE_SIZES:
        return (
            f"AITER's paged attention takes head dimensions of 64 and 128 and pages of 1 to 64 tokens; "
            f"these have {problem.head_dim} and {problem.page_size}"
        )
    if problem.lengths == "empties":
        return "AITER's paged attention divides by zero for sequences without a token"
    return None


def plan(problem: PagedDecode, plan_inputs: Inputs, device: Device) -> Plan:
    """List every sequence's pages."""
    seq_lens = plan_inputs["seq_lens"]
    page_starts, pages = packed_pages(plan_inputs, problem.page_size)
    last_page_lens = ((seq_lens - 1) % problem.page_size + 1).int()
    k_scale, v_scale = (
        torch.full((1,), scale, dtype=torch.float32, device=seq_lens.device)
        for scale in (problem.k_scale, problem.v_scale)
    )
    partitions = math.ceil(problem.max_seq_len / PARTITION_SIZE)
    return Plan(problem, page_starts, pages, last_page_lens, partitions, k_scale, v_scale)


def run(inputs: Inputs, plan: Plan) -> Outputs:
    """One call into a fresh output and a fresh workspace."""
    from aiter import paged_attention_ragged

    q, problem = inputs["q"], plan.problem
    out = torch.empty_like(q)
    partials = problem.batch * problem.num_heads * plan.max_num_partitions
    workspace_bytes = partials * (problem.head_dim * q.element_size() + 2 * 4)  # results, and their maximum and sum
    paged_attention_ragged(
        out.flatten(0, 1),
        torch.empty(workspace_bytes, dtype=torch.uint8, device=q.device),
        q.flatten(0, 1),
        inputs["k_cache"],
        inputs["v_cache"],
        problem.softmax_scale,
        plan.page_starts,
        plan.pages,
        plan.last_page_lens,
        problem.page_size,
        plan.max_num_partitions,
        None,  # ALiBi's slopes
        "fp8" if problem.is_fp8 else "auto",
        "NHD",
        0.0,  # soft cap of the logits
        plan.k_scale,
        plan.v_scale,
        None,  # scale of an 8-bit output
        PARTITION_SIZE,
    )
    return {"out": out}


KERNEL = Kernel(
    origin=Origin.VENDOR,
    tasks=("decode",),
    supports=supports,
    requires=("aiter",),
    plan=plan,
    run=run,
    version=package_version("aiter"),
)
