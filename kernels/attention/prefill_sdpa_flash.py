"""PyTorch's flash-attention SDPA: on a GPU its operator for packed sequences, on a CPU one call for each length.

On a GPU `aten::_flash_attention_forward` (FlashAttention-2 behind SDPA and `torch.nn.attention.varlen`) takes the
inputs as they are: packed, grouped heads, aligned to the bottom right, windows, and gives the LSE. The CPU's operator
takes batches; see _prefill_sdpa.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ..kernel import Kernel, Origin
from . import _prefill_lengths, _prefill_sdpa

if TYPE_CHECKING:
    from ..device import Device
    from ._prefill_problem import AttentionPrefill
from ..problem import Inputs, Outputs


def supports(problem: AttentionPrefill, device: Device) -> str | None:
    """None, or the limit that this problem or device is past."""
    if device.kind == "cuda" and device.compute_capability < 80:
        return f"flash-attention SDPA wants compute capability 8.0 or more; this is {device.arch}"
    if problem.sees_nothing:
        return "flash-attention SDPA states no result for queries that see no key"
    return None


def plan(
    problem: AttentionPrefill, plan_inputs: Inputs, device: Device
) -> _prefill_lengths.Longest | _prefill_sdpa.Plan:
    """Lengths for the packed operator, calls for the CPU's."""
    if device.kind == "cpu":
        return _prefill_sdpa.plan(problem, plan_inputs, device)
    return _prefill_lengths.plan(problem, plan_inputs, device)


def run(inputs: Inputs, plan: _prefill_lengths.Longest | _prefill_sdpa.Plan) -> Outputs:
    """One call on a GPU; its LSE is [num_heads, total_q]."""
    if isinstance(plan, _prefill_sdpa.Plan):
        return _prefill_sdpa.run_with(attend_cpu, inputs, plan)
    problem = plan.problem
    window = {"window_size_left": problem.window - 1, "window_size_right": 0} if problem.window else {}
    out, lse, *_ = torch.ops.aten._flash_attention_forward(  # noqa: SLF001 - the public functions drop the LSE, or lack the window
        inputs["q"],
        inputs["k"],
        inputs["v"],
        inputs["cu_seqlens_q"],
        inputs["cu_seqlens_kv"],
        plan.num_queries,
        plan.num_keys,
        0.0,
        problem.causal,
        False,
        scale=problem.softmax_scale,
        **window,
    )
    return {"out": out, "lse": lse.t().contiguous()} if problem.return_lse else {"out": out}


def attend_cpu(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: torch.Tensor | None,
    is_causal: bool,
    problem: AttentionPrefill,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """`_prefill_sdpa.Attend` by the CPU's operator, which wants a mask to add, in the queries' dtype."""
    attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu  # noqa: SLF001 - the public function drops the LSE
    if mask is not None:
        mask = torch.zeros(mask.shape, dtype=q.dtype).masked_fill_(~mask, float("-inf"))
        mask = mask.expand(q.shape[0], 1, *mask.shape)
    out, lse = attention(q, k, v, is_causal=is_causal, attn_mask=mask, scale=problem.softmax_scale)
    return out, lse if problem.return_lse else None


KERNEL = Kernel(
    origin=Origin.VENDOR,
    tasks=("prefill",),
    supports=supports,
    plan=plan,
    run=run,
    version=lambda: torch.__version__,
)
