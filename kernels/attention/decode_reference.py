"""Paged decode and tree attention in plain fp32 PyTorch: the maths that every other kernel is held against."""

from __future__ import annotations

import torch

from ..kernel import Kernel, Origin
from ..problem import Inputs, Outputs
from ._decode_problem import PagedDecode


def decode(inputs: Inputs, problem: PagedDecode) -> Outputs:
    """One sequence after the other: out [batch, seq_len_q, num_heads, head_dim] and lse, both float32."""
    q, block_table = inputs["q"].float(), inputs["block_table"]
    seq_len_q, head_dim = problem.seq_len_q, problem.head_dim
    num_kv_heads, page_size = problem.num_kv_heads, problem.page_size
    out = torch.zeros_like(q)
    lse = torch.full(q.shape[:-1], float("-inf"), device=q.device)
    for b, length in enumerate(inputs["seq_lens"].tolist()):
        if length == 0:
            continue
        pages = block_table[b, : (length + page_size - 1) // page_size].long()
        k, v = (
            inputs[name][pages].flatten(0, 1)[:length].float() * scale  # [length, num_kv_heads, head_dim]
            for name, scale in (("k_cache", problem.k_scale), ("v_cache", problem.v_scale))
        )
        grouped = q[b].view(seq_len_q, num_kv_heads, -1, head_dim)
        scores = torch.einsum("qghd,kgd->qghk", grouped, k) * problem.softmax_scale
        scores.masked_fill_(_hidden(inputs, seq_len_q, length)[:, None, None, :], float("-inf"))
        lse[b] = torch.logsumexp(scores, dim=-1).flatten(1)
        probabilities = torch.softmax(scores, dim=-1).nan_to_num(0.0)
        out[b] = torch.einsum("qghk,kgd->qghd", probabilities, v).flatten(1, 2)
    return {"out": out, "lse": lse} if problem.with_lse else {"out": out}


def _hidden(inputs: Inputs, seq_len_q: int, length: int) -> torch.Tensor:
    """[seq_len_q, length] bool: what each query does not see. The last `seq_len_q` tokens are the queries' own."""
    position = torch.arange(length, device=inputs["q"].device)
    own = torch.arange(seq_len_q, device=position.device) + length - seq_len_q  # may be negative: sees nothing
    if "tree_mask" not in inputs:
        return position > own[:, None]
    hidden = torch.zeros((seq_len_q, length), dtype=torch.bool, device=position.device)
    hidden[:, length - seq_len_q :] = ~inputs["tree_mask"]
    return hidden


KERNEL = Kernel(origin=Origin.REFERENCE, tasks=("decode", "tree"), run=decode)
