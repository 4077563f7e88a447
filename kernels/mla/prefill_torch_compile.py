"""MLA prefill by torch.compile: Inductor's C++ on the CPU, Inductor's Triton and cuBLAS or hipBLAS on a GPU.

The maths is _prefill_problem.py's, naively: all queries against all tokens of the batch, and a mask for what belongs
to other sequences or lies ahead. A function of a few heads is compiled, as many as 2 GB of scores allow, and called
for one group of heads after the other.
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
from ._dims import V_HEAD_DIM
from ._prefill_problem import MLAPrefill

SCORES_BYTES = 2 * 10**9
MAX_CALLS = 64

Attend = Callable[..., tuple[torch.Tensor, torch.Tensor]]


def attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_seqlens_q: torch.Tensor,
    cu_seqlens_kv: torch.Tensor,
    softmax_scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Of some heads: (out [total_q, heads, 128] in q's dtype, lse [total_q, heads] float32)."""
    dtype = q.dtype
    matmul_dtype = dtype if q.is_cuda else torch.float32  # a CPU's bf16 product would round its result to bf16
    query, token = torch.arange(len(q), device=q.device), torch.arange(len(k), device=q.device)
    of_query = (query[:, None] >= cu_seqlens_q[1:]).sum(1)
    of_token = (token[:, None] >= cu_seqlens_kv[1:]).sum(1)
    own_token = query - cu_seqlens_q[of_query + 1] + cu_seqlens_kv[of_query + 1]
    sees = (of_query[:, None] == of_token) & (token <= own_token[:, None])
    q, k, v = (x.transpose(0, 1).to(matmul_dtype) for x in (q, k, v))  # [heads, tokens, head_dim]
    scores = _bmm_float32(q, k.transpose(1, 2)) * softmax_scale
    scores = scores.masked_fill(~sees, float("-inf"))
    maximum = scores.amax(-1, keepdim=True)
    exponentials = torch.exp(scores - maximum)
    total = exponentials.sum(-1, keepdim=True)
    out = torch.bmm((exponentials / total).to(matmul_dtype), v)
    return out.to(dtype).transpose(0, 1), (maximum + total.log()).squeeze(-1).transpose(0, 1)


def _bmm_float32(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.bmm(a, b, out_dtype=torch.float32) if a.is_cuda else torch.bmm(a, b)


@dataclass(frozen=True)
class Plan:
    """A function for `heads` heads at once; another size at the end would be compiled anew."""

    function: Attend
    heads: int
    softmax_scale: float


@functools.cache
def _compiled(problem: MLAPrefill, torch_device: str) -> Attend:
    return compiled(attend)


def _heads_at_once(problem: MLAPrefill) -> int:
    """The largest divisor of the head count that 2 GB of float32 scores have room for."""
    most = max(1, SCORES_BYTES // (4 * max(1, problem.total_q * problem.total_kv)))
    return max(n for n in range(1, problem.num_heads + 1) if problem.num_heads % n == 0 and n <= most)


def plan(problem: Problem, plan_inputs: Inputs, device: Device) -> Plan:
    """Compilation itself waits for the first `run`."""
    assert isinstance(problem, MLAPrefill)
    return Plan(_compiled(problem, device.torch_name), _heads_at_once(problem), problem.softmax_scale)


def run(inputs: Inputs, state: Plan) -> Outputs:
    """One call of the compiled function for every group of heads; the first one compiles."""
    q, k, v = inputs["q"], inputs["k"], inputs["v"]
    starts = (inputs["cu_seqlens_q"], inputs["cu_seqlens_kv"])
    out = q.new_empty((*q.shape[:2], V_HEAD_DIM))
    lse = q.new_empty(q.shape[:2], dtype=torch.float32)
    for first in range(0, q.shape[1], state.heads):
        own = slice(first, first + state.heads)
        out[:, own], lse[:, own] = state.function(q[:, own], k[:, own], v[:, own], *starts, state.softmax_scale)
    return {"out": out, "lse": lse}


def supports(problem: Problem, device: Device) -> str | None:
    """Refuses what would take more calls, or more memory, than anyone would give this."""
    assert isinstance(problem, MLAPrefill)
    scores_bytes = 4 * problem.total_q * problem.total_kv
    calls = problem.num_heads // _heads_at_once(problem)
    if scores_bytes > SCORES_BYTES or calls > MAX_CALLS:
        return f"the scores of all heads would take {problem.num_heads * scores_bytes / 1e9:.0f} GB"
    return None


KERNEL = Kernel(origin=Origin.GENERATED, tasks=("prefill",), run=run, plan=plan, supports=supports, warm_up=warm_up)
