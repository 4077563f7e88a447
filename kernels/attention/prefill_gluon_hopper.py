"""Attention prefill for Hopper: the kernel in `kernels/prefill_hopper`, the table of whose items `plan` makes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..kernel import Kernel, Origin
from ..lengths import planned_lengths
from ..prefill_items import HopperPlan, heads_at_once, launch, supports, table
from ..problem import Inputs, Outputs
from ._prefill_plan import plan as plan_fallback
from .prefill_triton_flash import run as run_fallback

if TYPE_CHECKING:
    from ..device import Device
    from ._prefill_problem import AttentionPrefill

STAGES = 3
"""What shared memory holds beside Q. H200, tuning, 8192 tokens of 64 heads: 1771 us, with two stages 1793."""


def plan(problem: AttentionPrefill, plan_inputs: Inputs, device: Device) -> HopperPlan:
    """List the items."""
    where, sequences = plan_inputs["cu_seqlens_q"].device, planned_lengths(plan_inputs, problem.sequences)
    at_once = heads_at_once(sum(n for _, n in sequences), problem.num_kv_heads, 2 * problem.head_dim * 2)
    items = table(
        sequences, problem.num_heads, problem.num_kv_heads, problem.causal, problem.window, device.num_sms, at_once
    )
    return HopperPlan(
        items=items.to(where),
        softmax_scale=problem.softmax_scale,
        num_heads=problem.num_heads,
        num_kv_heads=problem.num_kv_heads,
        causal=problem.causal,
        window=problem.window,
        return_lse=problem.return_lse,
        stages=STAGES,
        fallback=plan_fallback(problem, plan_inputs, device) if where.type == "cpu" else None,
    )


def run(inputs: Inputs, state: HopperPlan) -> Outputs:
    """One launch."""
    if state.fallback:
        return run_fallback(inputs, state.fallback)
    return launch(inputs["q"], inputs["k"], inputs["v"], state)


KERNEL = Kernel(
    origin=Origin.HAND,
    tasks=("prefill",),
    supports=supports,
    run=run,
    plan=plan,
    requires=("triton",),
    uses_triton=True,
)
