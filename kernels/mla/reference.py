"""MLA decode in plain fp32 PyTorch: the maths that every other kernel is held against. See problem.py."""

from __future__ import annotations

import torch

from ..kernel import Kernel, Origin
from ..problem import Inputs, Outputs
from .problem import KV_LORA_RANK, MLADecode


def decode(inputs: Inputs, problem: MLADecode) -> Outputs:
    """One sequence after the other: out [batch, seq_len_q, num_heads, 512] and lse, both float32."""
    q, kv_cache, block_table = inputs["q"].float(), inputs["kv_cache"], inputs["block_table"]
    batch, seq_len_q, num_heads, head_dim = q.shape
    page_size = kv_cache.shape[1]
    out = torch.zeros((batch, seq_len_q, num_heads, KV_LORA_RANK), device=q.device)
    lse = torch.full((batch, seq_len_q, num_heads), float("-inf"), device=q.device)
    for b, length in enumerate(inputs["seq_lens"].tolist()):
        if length == 0:
            continue
        pages = block_table[b, : (length + page_size - 1) // page_size].long()
        kv = kv_cache[pages].reshape(-1, head_dim)[:length].float()  # [length, 576]
        scores = torch.einsum("qhd,kd->qhk", q[b], kv) * problem.softmax_scale
        position = torch.arange(length, device=q.device)
        last_seen = torch.arange(seq_len_q, device=q.device) + length - seq_len_q  # may be negative: sees nothing
        scores.masked_fill_(position > last_seen[:, None, None], float("-inf"))
        lse[b] = torch.logsumexp(scores, dim=-1)
        probabilities = torch.softmax(scores, dim=-1).nan_to_num(0.0)
        out[b] = torch.einsum("qhk,kd->qhd", probabilities, kv[:, :KV_LORA_RANK])
    return {"out": out, "lse": lse}


KERNEL = Kernel(origin=Origin.REFERENCE, tasks=("decode",), run=decode)
