"""MLA prefill in plain fp32 PyTorch: the maths that every other kernel is held against. See _prefill_problem.py."""

from __future__ import annotations

import torch

from ..kernel import Kernel, Origin
from ..problem import Inputs, Outputs
from ._dims import V_HEAD_DIM
from ._prefill_problem import MLAPrefill

SCORES = 1 << 27
"""At most so many at once: they are float32."""


def prefill(inputs: Inputs, problem: MLAPrefill) -> Outputs:
    """One sequence and a few heads after the other: out [total_q, num_heads, 128] and lse, both float32."""
    q, k, v = inputs["q"], inputs["k"], inputs["v"]
    total_q, num_heads, _ = q.shape
    out = torch.zeros((total_q, num_heads, V_HEAD_DIM), device=q.device)
    lse = torch.full((total_q, num_heads), float("-inf"), device=q.device)
    starts_q, starts_kv = inputs["cu_seqlens_q"].tolist(), inputs["cu_seqlens_kv"].tolist()
    for b in range(len(starts_q) - 1):
        new, tokens = slice(starts_q[b], starts_q[b + 1]), slice(starts_kv[b], starts_kv[b + 1])
        num_new, num_tokens = new.stop - new.start, tokens.stop - tokens.start
        if num_new == 0:
            continue
        last_seen = torch.arange(num_new, device=q.device) + num_tokens - num_new
        hidden = torch.arange(num_tokens, device=q.device) > last_seen[:, None]
        for heads in torch.arange(num_heads, device=q.device).split(max(1, SCORES // (num_new * num_tokens))):
            scores = torch.einsum("qhd,khd->hqk", q[new, heads].float(), k[tokens, heads].float())
            scores = (scores * problem.softmax_scale).masked_fill_(hidden, float("-inf"))
            lse[new, heads] = torch.logsumexp(scores, dim=-1).T
            out[new, heads] = torch.einsum("hqk,khd->qhd", torch.softmax(scores, dim=-1), v[tokens, heads].float())
    return {"out": out, "lse": lse}


KERNEL = Kernel(origin=Origin.REFERENCE, tasks=("prefill",), run=prefill)
