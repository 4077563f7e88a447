"""Attention prefill in plain fp32 PyTorch: what every other kernel is held against. See _prefill_problem.py."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from ..kernel import Kernel, Origin
from ..problem import Inputs, Outputs
from ._prefill_problem import AttentionPrefill

MOST_SCORES = 1 << 26
"""Held at once: 256 MiB in float32."""


def prefill(inputs: Inputs, problem: AttentionPrefill) -> Outputs:
    """out [total_q, num_heads, head_dim] and, where asked for, lse [total_q, num_heads]; both float32."""
    q = inputs["q"]
    out = torch.zeros(q.shape, device=q.device)
    lse = torch.full(q.shape[:2], float("-inf"), device=q.device)
    for queries, keys, first_position in _blocks(inputs, problem):
        for kv_head in range(problem.num_kv_heads):
            heads = slice(kv_head * problem.group, (kv_head + 1) * problem.group)
            k, v = inputs["k"][keys, kv_head].float(), inputs["v"][keys, kv_head].float()
            scores = torch.einsum("qhd,kd->qhk", q[queries, heads].float(), k) * problem.softmax_scale
            scores.masked_fill_(_hidden(problem, first_position, len(scores), len(k), q.device)[:, None], float("-inf"))
            lse[queries, heads] = torch.logsumexp(scores, dim=-1)
            probabilities = torch.softmax(scores, dim=-1).nan_to_num(0.0)
            out[queries, heads] = torch.einsum("qhk,kd->qhd", probabilities, v)
    return {"out": out, "lse": lse} if problem.return_lse else {"out": out}


def _blocks(inputs: Inputs, problem: AttentionPrefill) -> Iterator[tuple[slice, slice, int]]:
    """(rows of q, rows of k and v, position of the first query): at most MOST_SCORES scores for each KV head."""
    starts_q, starts_kv = inputs["cu_seqlens_q"].tolist(), inputs["cu_seqlens_kv"].tolist()
    for b in range(len(starts_q) - 1):
        num_queries, num_keys = starts_q[b + 1] - starts_q[b], starts_kv[b + 1] - starts_kv[b]
        if num_keys == 0:
            continue
        rows = max(1, MOST_SCORES // (num_keys * problem.group))
        for first in range(0, num_queries, rows):
            queries = slice(starts_q[b] + first, starts_q[b] + min(first + rows, num_queries))
            yield queries, slice(starts_kv[b], starts_kv[b + 1]), num_keys - num_queries + first


def _hidden(
    problem: AttentionPrefill, first_position: int, num_queries: int, num_keys: int, device: torch.device
) -> torch.Tensor:
    """[num_queries, num_keys] bool: keys that a query does not see. Positions may be negative: those see nothing."""
    position = first_position + torch.arange(num_queries, device=device)[:, None]
    key = torch.arange(num_keys, device=device)
    if not problem.causal:
        return torch.zeros((num_queries, num_keys), dtype=torch.bool, device=device)
    hidden = key > position
    return hidden | (key <= position - problem.window) if problem.window else hidden


KERNEL = Kernel(origin=Origin.REFERENCE, tasks=("prefill",), run=prefill)
