"""Attention prefill by torch.compile: Inductor's C++ on the CPU, Inductor's Triton and cuBLAS or hipBLAS on a GPU.

The maths is _prefill_problem.py's, written naively. Packed rows are padded to the longest sequence: q becomes
[batch, num_kv_heads, group * queries, head_dim], the scores [batch, num_kv_heads, group, queries, keys] in float32.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..device import Device
from ..inductor import compiled, warm_up
from ..kernel import Kernel, Origin
from ..problem import Inputs, Outputs, Problem
from ._prefill_problem import AttentionPrefill

MAX_WORKSPACE_BYTES = 16 * 10**9

Prefill = Callable[..., tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True)
class Plan:
    """A compiled function, and its constants."""

    problem: AttentionPrefill
    function: Prefill
    num_queries: int
    """Of the longest sequence."""
    num_keys: int


def prefill(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, starts_q: torch.Tensor, starts_kv: torch.Tensor,
    num_queries: int, num_keys: int, causal: bool, window: int, softmax_scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """(out [total_q, num_heads, head_dim] in q's dtype, lse [total_q, num_heads] float32)."""
    batch, (num_heads, head_dim), num_kv_heads = starts_q.shape[0] - 1, q.shape[1:], k.shape[1]
    matmul_dtype = q.dtype if q.is_cuda else torch.float32  # a CPU's bf16 product would round its result to bf16
    lengths_q, lengths_kv = starts_q.diff(), starts_kv.diff()
    query, key = torch.arange(num_queries, device=q.device), torch.arange(num_keys, device=q.device)
    row_q = (starts_q[:-1, None] + query).clamp_max(q.shape[0] - 1)
    row_kv = (starts_kv[:-1, None] + key).clamp_max(k.shape[0] - 1)
    q_padded = q[row_q].view(batch, num_queries, num_kv_heads, -1, head_dim).permute(0, 2, 3, 1, 4)
    k_padded, v_padded = (t[row_kv].permute(0, 2, 1, 3).flatten(0, 1).to(matmul_dtype) for t in (k, v))
    scores = _bmm_float32(q_padded.reshape(batch * num_kv_heads, -1, head_dim).to(matmul_dtype), k_padded.mT)
    scores = scores.view(batch, num_kv_heads, -1, num_queries, num_keys) * softmax_scale
    position = ((lengths_kv - lengths_q)[:, None] + query)[:, None, None, :, None]
    hidden = key >= lengths_kv[:, None, None, None, None]
    if causal:
        hidden = hidden | (key > position)
    if window:
        hidden = hidden | (key <= position - window)
    scores = scores.masked_fill(hidden, float("-inf"))
    maximum = scores.amax(-1, keepdim=True)
    maximum = torch.where(maximum == float("-inf"), 0.0, maximum)  # a query that sees nothing
    exponentials = torch.exp(scores - maximum)
    total = exponentials.sum(-1, keepdim=True)
    probabilities = exponentials / torch.where(total == 0, 1.0, total)
    out = torch.bmm(probabilities.to(matmul_dtype).view(batch * num_kv_heads, -1, num_keys), v_padded)
    out = out.view(batch, num_heads, num_queries, head_dim).to(q.dtype)
    lse = (maximum + total.log()).view(batch, num_heads, num_queries)
    packed = torch.arange(q.shape[0], device=q.device)
    sequence = torch.searchsorted(starts_q, packed, right=True) - 1
    return out[sequence, :, packed - starts_q[sequence]], lse[sequence, :, packed - starts_q[sequence]]


def _bmm_float32(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.bmm(a, b, out_dtype=torch.float32) if a.is_cuda else torch.bmm(a, b)


@functools.cache
def _compiled(problem: AttentionPrefill, num_queries: int, num_keys: int, torch_device: str) -> Prefill:
    return compiled(prefill)


def plan(problem: Problem, plan_inputs: Inputs, device: Device) -> Plan:
    """Read the longest lengths. Compilation itself waits for the first `run`."""
    assert isinstance(problem, AttentionPrefill)
    num_queries, num_keys = (int(plan_inputs[name].diff().max()) for name in ("cu_seqlens_q", "cu_seqlens_kv"))
    return Plan(problem, _compiled(problem, num_queries, num_keys, device.torch_name), num_queries, num_keys)


def run(inputs: Inputs, state: Plan) -> Outputs:
    """One call of the compiled function; the first one compiles."""
    problem = state.problem
    out, lse = state.function(
        *(inputs[name] for name in ("q", "k", "v", "cu_seqlens_q", "cu_seqlens_kv")),
        state.num_queries, state.num_keys, problem.causal, problem.window, problem.softmax_scale,
    )  # fmt: skip
    return {"out": out, "lse": lse} if problem.return_lse else {"out": out}


def supports(problem: Problem, device: Device) -> str | None:
    """Refuses what would need more than 16 GB for the scores."""
    assert isinstance(problem, AttentionPrefill)
    queries, keys = (max(lengths) for lengths in zip(*problem.sequences(), strict=True))
    workspace_bytes = problem.batch * problem.num_heads * queries * keys * (8 if device.kind == "cpu" else 6)
    if workspace_bytes > MAX_WORKSPACE_BYTES:
        return (
            f"its scores would take {workspace_bytes / 1e9:.0f} GB, "
            f"more than the {MAX_WORKSPACE_BYTES / 1e9:.0f} GB that this kernel allows itself"
        )
    return None


KERNEL = Kernel(origin=Origin.GENERATED, tasks=("prefill",), run=run, plan=plan, supports=supports, warm_up=warm_up)
