"""Paged decode and tree attention by torch.compile: Inductor's C++ on the CPU; Triton and cuBLAS or hipBLAS on a GPU.

The pages of every sequence are gathered into padded tensors [batch, tokens, num_kv_heads, head_dim], where `tokens` is
the longest length that the block table has room for; what lies past a sequence's end is masked. Scores, softmax and
LSE stay in float32: scores rounded to bf16 would cost the LSE its tolerance.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch

from ..device import Device
from ..inductor import compiled, warm_up
from ..kernel import Kernel, Origin
from ..problem import Inputs, Outputs, Problem
from ._decode_problem import PagedDecode

MAX_WORKSPACE_BYTES = 16 * 10**9

Decode = Callable[..., tuple[torch.Tensor, torch.Tensor]]


def decode(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    block_table: torch.Tensor,
    seq_lens: torch.Tensor,
    tree_mask: torch.Tensor | None,
    scale: float,
    v_scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(out [batch, seq_len_q, num_heads, head_dim] in q's dtype, lse [batch, seq_len_q, num_heads] float32)."""
    batch, seq_len_q, num_heads, head_dim = q.shape
    num_kv_heads = k_cache.shape[2]
    group = num_heads // num_kv_heads
    matmul_dtype = q.dtype if q.is_cuda else torch.float32  # a CPU's bf16 product would round its result to bf16
    rows = q.view(batch, seq_len_q, num_kv_heads, group, head_dim).transpose(1, 2)  # [b, g, seq_len_q, group, d]
    rows = rows.reshape(batch * num_kv_heads, seq_len_q * group, head_dim).to(matmul_dtype)
    k, v = (  # [batch * num_kv_heads, tokens, head_dim]
        cache[block_table].view(batch, -1, num_kv_heads, head_dim).to(q.dtype).to(matmul_dtype).transpose(1, 2)
        .reshape(batch * num_kv_heads, -1, head_dim) for cache in (k_cache, v_cache)
    )  # fmt: skip
    scores = _bmm_float32(rows, k.transpose(1, 2)) * scale
    scores = scores.view(batch, num_kv_heads, seq_len_q, group, -1)
    seen = _seen(seq_lens, tree_mask, seq_len_q, k.shape[1])[:, None, :, None]
    scores = scores.masked_fill(~seen, float("-inf"))
    maximum = scores.amax(-1, keepdim=True)
    maximum = torch.where(maximum == float("-inf"), 0.0, maximum)  # a query that sees nothing
    exponentials = torch.exp(scores - maximum)
    total = exponentials.sum(-1, keepdim=True)
    probabilities = (exponentials / torch.where(total == 0, 1.0, total)).to(matmul_dtype)
    out = _bmm_float32(probabilities.view(batch * num_kv_heads, seq_len_q * group, -1), v) * v_scale
    out = out.to(q.dtype).view(batch, num_kv_heads, seq_len_q, group, head_dim).transpose(1, 2)
    lse = (maximum + total.log()).view(batch, num_kv_heads, seq_len_q, group).transpose(1, 2)
    return out.reshape(q.shape), lse.reshape(q.shape[:-1])


def _seen(seq_lens: torch.Tensor, tree_mask: torch.Tensor | None, seq_len_q: int, tokens: int) -> torch.Tensor:
    """[batch, seq_len_q, tokens] bool: which tokens each query sees."""
    query = torch.arange(seq_len_q, device=seq_lens.device)
    own = torch.arange(tokens, device=seq_lens.device) - (seq_lens[:, None] - seq_len_q)  # [batch, tokens]
    if tree_mask is None:
        return own[:, None, :] <= query[:, None]
    related = tree_mask[:, own.clamp(0, seq_len_q - 1)].transpose(0, 1)  # [batch, seq_len_q, tokens]
    return (own < 0)[:, None, :] | ((own < seq_len_q)[:, None, :] & related)


def _bmm_float32(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.bmm(a, b, out_dtype=torch.float32) if a.is_cuda else torch.bmm(a, b)


@functools.cache
def _compiled(problem: PagedDecode, torch_device: str) -> Decode:
    return compiled(decode)


def plan(problem: Problem, plan_inputs: Inputs, device: Device) -> tuple[Decode, PagedDecode]:
    """Compilation itself waits for the first `run`."""
    assert isinstance(problem, PagedDecode)
    return _compiled(problem, device.torch_name), problem


def run(inputs: Inputs, state: tuple[Decode, PagedDecode]) -> Outputs:
    """One call of the compiled function; the first one compiles."""
    function, problem = state
    out, lse = function(
        inputs["q"],
        inputs["k_cache"],
        inputs["v_cache"],
        inputs["block_table"],
        inputs["seq_lens"],
        inputs.get("tree_mask"),
        problem.softmax_scale * problem.k_scale,
        problem.v_scale,
    )
    return {"out": out, "lse": lse} if problem.with_lse else {"out": out}


def supports(problem: Problem, device: Device) -> str | None:
    """Refuses what would need more than 16 GB for the gathered caches and the scores."""
    assert isinstance(problem, PagedDecode)
    tokens = problem.batch * problem.max_pages * problem.page_size
    matmul_bytes = 4 if device.kind == "cpu" else 2
    cache_bytes = 2 * problem.num_kv_heads * problem.head_dim * matmul_bytes
    score_bytes = problem.seq_len_q * problem.num_heads * (4 + matmul_bytes)
    workspace_bytes = tokens * (cache_bytes + score_bytes)
    if workspace_bytes > MAX_WORKSPACE_BYTES:
        return (
            f"the gathered caches and their scores would take {workspace_bytes / 1e9:.0f} GB, "
            f"more than the {MAX_WORKSPACE_BYTES / 1e9:.0f} GB that this kernel allows itself"
        )
    return None


KERNEL = Kernel(
    origin=Origin.GENERATED, tasks=("decode", "tree"), run=run, plan=plan, supports=supports, warm_up=warm_up
)
