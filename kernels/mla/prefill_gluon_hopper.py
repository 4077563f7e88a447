"""MLA prefill for Hopper with a warp that fetches and two warpgroups that compute: `kernels/prefill_hopper`.

Few queries of many keys, whose items would leave most SMs idle, are left to `prefill_triton`, which splits keys.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..kernel import Kernel, Origin
from ..lengths import planned_lengths
from ..prefill_items import HopperPlan, for_hopper, heads_at_once, launch, table
from ..problem import Inputs, Outputs
from ._dims import QK_HEAD_DIM, QK_ROPE_HEAD_DIM, V_HEAD_DIM
from ._prefill_plan import plan as plan_fallback
from .prefill_triton import run as run_fallback

if TYPE_CHECKING:
    from ..device import Device
    from ._prefill_problem import MLAPrefill


def plan(problem: MLAPrefill, plan_inputs: Inputs, device: Device) -> HopperPlan:
    """List the items."""
    fallback = plan_fallback(problem, plan_inputs, device)
    where, sequences = plan_inputs["cu_seqlens_q"].device, planned_lengths(plan_inputs, problem.sequence_lengths)
    num_heads = problem.num_heads
    at_once = heads_at_once(sum(n for _, n in sequences), num_heads, 2 * (QK_HEAD_DIM + V_HEAD_DIM))
    return HopperPlan(
        items=table(sequences, num_heads, num_heads, True, 0, device.num_sms, at_once).to(where),
        softmax_scale=problem.softmax_scale,
        num_heads=num_heads,
        num_kv_heads=num_heads,
        causal=True,
        window=0,
        return_lse=True,
        rope=QK_ROPE_HEAD_DIM,
        fallback=fallback if where.type == "cpu" or fallback.parts > 1 else None,
    )


def run(inputs: Inputs, state: HopperPlan) -> Outputs:
    """One launch, or two where keys are split."""
    if state.fallback:
        return run_fallback(inputs, state.fallback)
    return launch(inputs["q"], inputs["k"], inputs["v"], state)


KERNEL = Kernel(
    origin=Origin.HAND,
    tasks=("prefill",),
    supports=for_hopper,
    run=run,
    plan=plan,
    requires=("triton",),
    uses_triton=True,
)
