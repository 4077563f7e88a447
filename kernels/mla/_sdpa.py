"""What the SDPA adapters share: MLA decode as multi-query attention, the KV cache gathered out of its pages first.

SDPA knows neither pages nor a latent shared by all heads. The usual way around both: the query heads become rows of
one head's query ([n, 1, seq_len_q * num_heads, 576]), and the pages are copied into a contiguous K, whose first 512
columns are V. The copy belongs to `run`: whoever calls SDPA on a paged cache pays for it in every step. Which rows
to copy follows from the block table, hence is planned.

Sequences of one length share a call, so nothing is padded: [n, seq_len, 576] for n of them. The calls are the aten
operators that `torch.nn.functional.scaled_dot_product_attention` dispatches to, because it drops their LSE.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from .problem import HEAD_DIM, KV_LORA_RANK, MLADecode

if TYPE_CHECKING:
    from ..device import Device
    from ..problem import Inputs, Outputs

Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None, float], tuple[torch.Tensor, torch.Tensor]]
"""(q [n, 1, rows, 576], kv [n, 1, seq_len, 576], additive mask [rows, seq_len] or None, softmax scale)
-> (out [n, 1, rows, >= 512], lse [n, 1, rows] float32, natural log)."""


@dataclass(frozen=True)
class Group:
    """The n sequences of one length."""

    sequences: torch.Tensor
    """[n] int64: which ones."""
    pages: torch.Tensor
    """[n * pages of the length] int32: the block-table entries in use, row by row."""
    seq_len: int
    mask: torch.Tensor | None
    """[seq_len_q * num_heads, seq_len], 0 or -inf, in the queries' dtype; None where every query sees everything."""


@dataclass(frozen=True)
class Plan:
    """The calls that a batch takes."""

    problem: MLADecode
    groups: tuple[Group, ...]


def plan(problem: MLADecode, plan_inputs: Inputs, device: Device) -> Plan:
    """Group the sequences by length; empty ones are in no group."""
    block_table, seq_lens = plan_inputs["block_table"], plan_inputs["seq_lens"]
    lengths = [problem.max_seq_len] * problem.batch if seq_lens.is_meta else seq_lens.tolist()
    groups = []
    for seq_len in sorted(set(lengths) - {0}):
        rows = torch.tensor([i for i, n in enumerate(lengths) if n == seq_len], device=block_table.device)
        pages = block_table[rows, : (seq_len + problem.page_size - 1) // problem.page_size].flatten()
        groups.append(Group(rows, pages, seq_len, _causal_mask(problem, seq_len, block_table.device)))
    return Plan(problem, tuple(groups))


def run_with(attend: Attend, inputs: Inputs, plan: Plan) -> Outputs:
    """`attend` once for every length that occurs; sequences without a token keep out = 0 and lse = -inf."""
    problem, q = plan.problem, inputs["q"]
    rows = problem.seq_len_q * problem.num_heads
    if len(plan.groups) == 1 and plan.groups[0].sequences.numel() == problem.batch:
        out, lse = _attend_group(attend, q.view(-1, 1, rows, HEAD_DIM), inputs["kv_cache"], plan.groups[0], problem)
        return _as_outputs(out[..., :KV_LORA_RANK].contiguous(), lse, problem)
    out = q.new_zeros((problem.batch, 1, rows, KV_LORA_RANK))
    lse = q.new_full((problem.batch, 1, rows), float("-inf"), dtype=torch.float32)
    for group in plan.groups:
        group_q = q.index_select(0, group.sequences).view(-1, 1, rows, HEAD_DIM)
        group_out, group_lse = _attend_group(attend, group_q, inputs["kv_cache"], group, problem)
        out[group.sequences] = group_out[..., :KV_LORA_RANK]
        lse[group.sequences] = group_lse
    return _as_outputs(out, lse, problem)


def gather(kv_cache: torch.Tensor, pages: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The pages one after the other, [pages * page_size, 576], converted to the dtype that SDPA computes in."""
    if kv_cache.dtype == dtype:
        return kv_cache.index_select(0, pages).view(-1, HEAD_DIM)
    as_bytes = kv_cache.view(torch.uint8).index_select(0, pages)  # index_select knows no 8-bit floats
    return as_bytes.view(kv_cache.dtype).to(dtype).view(-1, HEAD_DIM)


def _attend_group(
    attend: Attend, q: torch.Tensor, kv_cache: torch.Tensor, group: Group, problem: MLADecode
) -> tuple[torch.Tensor, torch.Tensor]:
    kv = gather(kv_cache, group.pages, q.dtype).view(q.shape[0], 1, -1, HEAD_DIM)[:, :, : group.seq_len]
    return attend(q, kv, group.mask, problem.softmax_scale)


def _as_outputs(out: torch.Tensor, lse: torch.Tensor, problem: MLADecode) -> Outputs:
    rows = (problem.batch, problem.seq_len_q, problem.num_heads)
    return {"out": out.view(*rows, KV_LORA_RANK), "lse": lse.reshape(rows)}


def _causal_mask(problem: MLADecode, seq_len: int, device: torch.device) -> torch.Tensor | None:
    """Rows are (query, head), head fastest: query i sees keys up to seq_len - seq_len_q + i."""
    if problem.seq_len_q == 1:
        return None
    last_seen = torch.arange(problem.seq_len_q, device=device) + seq_len - problem.seq_len_q
    hidden = torch.arange(seq_len, device=device) > last_seen.repeat_interleave(problem.num_heads)[:, None]
    mask = torch.zeros(hidden.shape, dtype=getattr(torch, problem.dtype), device=device)
    return mask.masked_fill_(hidden, float("-inf"))
