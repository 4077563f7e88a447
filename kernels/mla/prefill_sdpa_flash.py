"""MLA prefill by PyTorch's flash-attention SDPA. It wants V as wide as K: 64 columns of zeros are appended in `run`.

On a GPU this is `aten::_flash_attention_forward` in its form for packed sequences, whose causal mask ends at the last
token; on a CPU the operator knows neither, and gets one sequence after the other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ..kernel import Kernel, Origin
from . import _prefill_sdpa, _prefill_varlen
from ._prefill_varlen import cut, padded

if TYPE_CHECKING:
    from ..device import Device
    from ..problem import Inputs, Outputs
    from ._prefill_problem import MLAPrefill


def attend_on_cpu(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """`_prefill_sdpa.Attend` by flash attention on a CPU."""
    attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu  # noqa: SLF001 - the public function drops the LSE
    if mask is not None:
        mask = mask.expand(q.shape[0], 1, *mask.shape)
    out, lse = attention(q, k, padded(v), is_causal=mask is None, attn_mask=mask, scale=scale)
    return cut(out), lse


def plan(problem: MLAPrefill, plan_inputs: Inputs, device: Device) -> _prefill_sdpa.Plan | _prefill_varlen.Plan:
    """The layout that the device's operator takes."""
    if device.kind == "cpu":
        return _prefill_sdpa.plan(problem, plan_inputs, device)
    return _prefill_varlen.plan(problem, plan_inputs, device)


def run(inputs: Inputs, plan: _prefill_sdpa.Plan | _prefill_varlen.Plan) -> Outputs:
    """Pad V, attend, cut the padding off."""
    if isinstance(plan, _prefill_sdpa.Plan):
        return _prefill_sdpa.run_with(attend_on_cpu, inputs, plan)
    out, lse, *_ = torch.ops.aten._flash_attention_forward(  # noqa: SLF001 - the public function drops the LSE
        inputs["q"],
        inputs["k"],
        padded(inputs["v"]),
        plan.cu_seqlens_q,
        plan.cu_seqlens_kv,
        plan.max_q,
        plan.max_kv,
        0.0,
        True,
        False,
        scale=plan.problem.softmax_scale,
    )
    return {"out": cut(out), "lse": lse.t()}  # [num_heads, total_q] in memory


KERNEL = Kernel(
    origin=Origin.VENDOR,
    tasks=("prefill",),
    plan=plan,
    run=run,
    version=lambda: torch.__version__,
)
