"""The exchange of tokens in Triton: slots sorted in one launch and rows copied in a second one; the sum in one launch.

Rows are copied from tokens to experts: a program reads a part of a token once and writes it to all of its rows.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_wait

from ..kernel import Kernel, Origin
from ..problem import Inputs, Outputs
from ._exchange_plan import ExchangePlan, plan
from ._grouped_triton import combine
from ._sort_triton import launch_options, sort_slots
from .problem import MoEUnpermute


@triton.jit
def _copy_rows(
    hidden, rows, permuted, num_tokens,
    HIDDEN: tl.constexpr, TOP_K: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_H: tl.constexpr,
    DEPENDENT_LAUNCH: tl.constexpr,
):  # fmt: skip
    """Program (t, c): columns [c * BLOCK_H, ..) of tokens [t * BLOCK_T, ..) go to all of their rows."""
    token = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    column = tl.program_id(1) * BLOCK_H + tl.arange(0, BLOCK_H)
    is_token = token < num_tokens
    mask = is_token[:, None] & (column < HIDDEN)[None, :]
    values = tl.load(hidden + token.to(tl.int64)[:, None] * HIDDEN + column[None, :], mask=mask)
    if DEPENDENT_LAUNCH:
        gdc_wait()
    for i in tl.static_range(TOP_K):
        row = tl.load(rows + token * TOP_K + i, mask=is_token, other=0).to(tl.int64)
        tl.store(permuted + row[:, None] * HIDDEN + column[None, :], values, mask=mask)


def run(inputs: Inputs, state: ExchangePlan) -> Outputs:
    """Two launches to the experts, one back."""
    problem = state.problem
    grid = (triton.cdiv(problem.tokens, state.block_t), triton.cdiv(problem.hidden_size, state.block_h))
    if isinstance(problem, MoEUnpermute):
        y, rows = inputs["expert_out"], inputs["rows"]
        out = y.new_empty((problem.tokens, problem.hidden_size))
        combine[grid](
            y, rows, inputs["topk_weights"], rows, out, problem.tokens,
            HIDDEN=problem.hidden_size, SLOTS_PER_TOKEN=problem.top_k, SPLIT_K=1, BLOCK_T=state.block_t,
            BLOCK_H=state.block_h, IS_SORTED=True, DEPENDENT_LAUNCH=False, num_warps=state.num_warps,
        )  # fmt: skip
        return {"out": out}
    hidden, topk_ids = inputs["hidden"], inputs["topk_ids"]
    dependent_launch = state.dependent_launch and not hidden.is_cpu
    permuted = torch.empty((problem.slots, problem.hidden_size), dtype=hidden.dtype, device=hidden.device)
    _, expert_ends, rows = sort_slots(topk_ids, problem.num_experts, dependent_launch, True, True)
    _copy_rows[grid](
        hidden, rows, permuted, problem.tokens,
        HIDDEN=problem.hidden_size, TOP_K=problem.top_k, BLOCK_T=state.block_t, BLOCK_H=state.block_h,
        DEPENDENT_LAUNCH=dependent_launch, num_warps=state.num_warps, **launch_options(dependent_launch),
    )  # fmt: skip
    return {"permuted": permuted, "rows": rows, "expert_ends": expert_ends}


KERNEL = Kernel(
    origin=Origin.HAND,
    tasks=("permute", "unpermute"),
    run=run,
    plan=plan,
    requires=("triton",),
    uses_triton=True,
)
