"""MLA decode by torch.compile: Inductor's C++ on the CPU, Inductor's Triton and cuBLAS or hipBLAS on a GPU.

The maths is problem.py's. The pages of every sequence are gathered into one padded tensor [batch, tokens, 576], where
`tokens` is the longest length that the block table has room for; what lies past a sequence's end is masked. Scores
stay in float32, as do the softmax and the LSE: products of bf16 values are exact there, and scores rounded to bf16
would cost the LSE its tolerance.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch

from ..device import Device
from ..inductor import compiled, warm_up
from ..kernel import Kernel, Origin
from ..problem import Inputs, Outputs, Problem
from .problem import HEAD_DIM, KV_LORA_RANK, MLADecode

MAX_WORKSPACE_BYTES = 16 * 10**9

Decode = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, float], tuple[torch.Tensor, torch.Tensor]]


def decode(
    q: torch.Tensor, kv_cache: torch.Tensor, block_table: torch.Tensor, seq_lens: torch.Tensor, softmax_scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """(out [batch, seq_len_q, num_heads, 512] in q's dtype, lse [batch, seq_len_q, num_heads] float32)."""
    batch, seq_len_q, num_heads, _ = q.shape
    matmul_dtype = q.dtype if q.is_cuda else torch.float32  # a CPU's bf16 product would round its result to bf16
    rows = q.reshape(batch, seq_len_q * num_heads, HEAD_DIM).to(matmul_dtype)
    kv = kv_cache[block_table].reshape(batch, -1, HEAD_DIM).to(q.dtype).to(matmul_dtype)  # [batch, tokens, 576]
    scores = _bmm_float32(rows, kv.transpose(1, 2)).view(batch, seq_len_q, num_heads, -1) * softmax_scale
    last_seen = seq_lens[:, None] - seq_len_q + torch.arange(seq_len_q, device=q.device)  # [batch, seq_len_q]
    hidden = torch.arange(kv.shape[1], device=q.device) > last_seen[:, :, None, None]
    scores = scores.masked_fill(hidden, float("-inf"))
    maximum = scores.amax(-1, keepdim=True)
    maximum = torch.where(maximum == float("-inf"), 0.0, maximum)  # a query that sees nothing
    exponentials = torch.exp(scores - maximum)
    total = exponentials.sum(-1, keepdim=True)
    probabilities = exponentials / torch.where(total == 0, 1.0, total)
    out = torch.bmm(probabilities.to(matmul_dtype).view(batch, seq_len_q * num_heads, -1), kv[..., :KV_LORA_RANK])
    return out.to(q.dtype).view(batch, seq_len_q, num_heads, KV_LORA_RANK), (maximum + total.log()).squeeze(-1)


def _bmm_float32(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.bmm(a, b, out_dtype=torch.float32) if a.is_cuda else torch.bmm(a, b)


@functools.cache
def _compiled(problem: MLADecode, torch_device: str) -> Decode:
    return compiled(decode)


def plan(problem: Problem, plan_inputs: Inputs, device: Device) -> tuple[Decode, float]:
    """Compilation itself waits for the first `run`."""
    assert isinstance(problem, MLADecode)
    return _compiled(problem, device.torch_name), problem.softmax_scale


def run(inputs: Inputs, state: tuple[Decode, float]) -> Outputs:
    """One call of the compiled function; the first one compiles."""
    function, softmax_scale = state
    out, lse = function(inputs["q"], inputs["kv_cache"], inputs["block_table"], inputs["seq_lens"], softmax_scale)
    return {"out": out, "lse": lse}


def supports(problem: Problem, device: Device) -> str | None:
    """Refuses what would need more than 16 GB for the gathered cache and the scores."""
    assert isinstance(problem, MLADecode)
    tokens = problem.batch * problem.max_pages * problem.page_size
    matmul_bytes = 4 if device.kind == "cpu" else 2
    row_bytes = problem.seq_len_q * problem.num_heads * (4 + matmul_bytes)
    workspace_bytes = tokens * (HEAD_DIM * matmul_bytes + row_bytes)
    if workspace_bytes > MAX_WORKSPACE_BYTES:
        return (
            f"the gathered cache and its scores would take {workspace_bytes / 1e9:.0f} GB, "
            f"more than the {MAX_WORKSPACE_BYTES / 1e9:.0f} GB that this kernel allows itself"
        )
    return None


KERNEL = Kernel(origin=Origin.GENERATED, tasks=("decode",), run=run, plan=plan, supports=supports, warm_up=warm_up)
