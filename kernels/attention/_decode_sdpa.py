"""What the SDPA adapters of paged decode share: the pages of K and V are gathered out of the caches first.

SDPA knows no pages. The copy belongs to `run`: whoever calls SDPA on a paged cache pays for it in every step. Which
pages to copy follows from the block table, hence is planned. The query heads of one KV head become rows of one head's
query, [n, num_kv_heads, seq_len_q * group, head_dim], so that K and V are read once for a group.

Sequences of one length share a call, so nothing is padded. The calls are the aten operators that
`torch.nn.functional.scaled_dot_product_attention` dispatches to, because it drops their LSE.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ._decode_problem import PagedDecode

if TYPE_CHECKING:
    from ..device import Device
    from ..problem import Inputs, Outputs

Attend = Callable[
    [torch.Tensor, torch.Tensor, torch.Tensor, "torch.Tensor | None", float], tuple[torch.Tensor, torch.Tensor]
]
"""(q [n, heads, rows, d], k and v [n, heads, seq_len, d], additive mask [rows, seq_len] or None, softmax scale)
-> (out [n, heads, rows, d], lse [n, heads, rows] float32, natural log)."""

ALIGNMENT = 8
"""Elements that the rows of a mask are padded to: memory-efficient attention reads them so."""


@dataclass(frozen=True)
class Group:
    """The n sequences of one length."""

    sequences: torch.Tensor
    """[n] int64: which ones."""
    pages: torch.Tensor
    """[n * pages of the length] int32: the block-table entries in use, row by row."""
    seq_len: int
    mask: torch.Tensor | None
    """[seq_len_q * group, seq_len], 0 or -inf, in the queries' dtype; None where every query sees everything."""


@dataclass(frozen=True)
class Plan:
    """The calls that a batch takes."""

    problem: PagedDecode
    groups: tuple[Group, ...]


def plan(problem: PagedDecode, plan_inputs: Inputs, device: Device) -> Plan:
    """Group the sequences by length; empty ones are in no group."""
    block_table, seq_lens = plan_inputs["block_table"], plan_inputs["seq_lens"]
    lengths = [problem.max_seq_len] * problem.batch if seq_lens.is_meta else seq_lens.tolist()
    groups = []
    for seq_len in sorted(set(lengths) - {0}):
        rows = torch.tensor([i for i, n in enumerate(lengths) if n == seq_len], device=block_table.device)
        pages = block_table[rows, : (seq_len + problem.page_size - 1) // problem.page_size].flatten()
        groups.append(Group(rows, pages, seq_len, _mask(problem, plan_inputs, seq_len)))
    return Plan(problem, tuple(groups))


def run_with(attend: Attend, inputs: Inputs, plan: Plan) -> Outputs:
    """`attend` once for every length that occurs; sequences without a token keep out = 0 and lse = -inf."""
    problem, q = plan.problem, inputs["q"]
    out = torch.zeros_like(q)
    lse = q.new_full(q.shape[:-1], float("-inf"), dtype=torch.float32)
    whole = len(plan.groups) == 1 and plan.groups[0].sequences.numel() == problem.batch
    for group in plan.groups:
        group_q = q if whole else q.index_select(0, group.sequences)
        group_out, group_lse = _attend_group(attend, group_q, inputs, group, problem)
        if whole:
            out, lse = group_out.contiguous(), group_lse.contiguous()
        else:
            out[group.sequences], lse[group.sequences] = group_out, group_lse
    return {"out": out, "lse": lse} if problem.with_lse else {"out": out}


def gathered(cache: torch.Tensor, pages: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The pages one after the other, [pages * page_size, num_kv_heads, d], in the dtype that SDPA computes in."""
    if cache.dtype == dtype:
        return cache.index_select(0, pages).flatten(0, 1)
    as_bytes = cache.view(torch.uint8).index_select(0, pages)  # index_select knows no 8-bit floats
    return as_bytes.view(cache.dtype).to(dtype).flatten(0, 1)


def _attend_group(
    attend: Attend, q: torch.Tensor, inputs: Inputs, group: Group, problem: PagedDecode
) -> tuple[torch.Tensor, torch.Tensor]:
    """out [n, seq_len_q, num_heads, d] and lse [n, seq_len_q, num_heads], views."""
    n, (seq_len_q, num_kv_heads, head_dim) = len(q), (problem.seq_len_q, problem.num_kv_heads, problem.head_dim)
    k, v = (  # [n, num_kv_heads, seq_len, d]
        gathered(inputs[name], group.pages, q.dtype).view(n, -1, num_kv_heads, head_dim)[:, : group.seq_len]
        .transpose(1, 2) for name in ("k_cache", "v_cache")
    )  # fmt: skip
    by_group = q.view(n, seq_len_q, num_kv_heads, problem.group, head_dim).transpose(1, 2)
    rows = by_group.reshape(n, num_kv_heads, -1, head_dim)
    out, lse = attend(rows, k, v, group.mask, problem.softmax_scale * problem.k_scale)
    if problem.v_scale != 1.0:
        out = out * problem.v_scale
    out = out.view(n, num_kv_heads, seq_len_q, problem.group, head_dim).transpose(1, 2)
    lse = lse.reshape(n, num_kv_heads, seq_len_q, problem.group).transpose(1, 2)
    return out.flatten(2, 3), lse.flatten(2, 3)


def _mask(problem: PagedDecode, plan_inputs: Inputs, seq_len: int) -> torch.Tensor | None:
    """Rows are (query, head of the group), head fastest. Tokens before the queries' own are seen by all."""
    seq_len_q, where = problem.seq_len_q, plan_inputs["block_table"].device
    is_tree = "tree_mask" in plan_inputs
    if seq_len_q == 1 and not is_tree:
        return None
    own = torch.arange(seq_len, device=where) - (seq_len - seq_len_q)  # among the queries, negative before them
    query = torch.arange(seq_len_q, device=where)
    hidden = own > query[:, None]
    if is_tree:
        hidden = torch.zeros((seq_len_q, seq_len), dtype=torch.bool, device=where)
        hidden[:, seq_len - seq_len_q :] = ~plan_inputs["tree_mask"]
    width = (seq_len + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT
    mask = torch.zeros((seq_len_q * problem.group, width), dtype=getattr(torch, problem.dtype), device=where)
    mask = mask[:, :seq_len]
    return mask.masked_fill_(hidden.repeat_interleave(problem.group, 0), float("-inf"))
