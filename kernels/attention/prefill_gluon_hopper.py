"""Attention prefill for Hopper: the kernel in `kernels/prefill_hopper`, the table of whose items `plan` makes.

Few queries of many keys, whose items would leave most SMs idle, are left to `prefill_triton_flash`, which splits keys.
"""

from __future__ import annotations

from ..device import Device
from ..kernel import Kernel, Origin
from ..lengths import planned_lengths
from ..prefill_items import HopperPlan, for_hopper, heads_at_once, launch, table
from ..problem import Inputs, Outputs, Problem
from ._prefill_hopper_choice import Schedule, choice_for, tiles_that_fit
from .prefill_triton_flash import KERNEL as FALLBACK
from .problem import AttentionPrefill

HEAD_DIMS = (64, 128, 256)


def supports(problem: Problem, device: Device) -> str | None:
    """None, or the limit that this problem or device is past."""
    assert isinstance(problem, AttentionPrefill)
    if problem.head_dim not in HEAD_DIMS:
        return f"its TMA tiles are whole heads of 64, 128 or 256 columns; these have {problem.head_dim}"
    return for_hopper(problem, device)


def plan(problem: Problem, plan_inputs: Inputs, device: Device) -> HopperPlan:
    """List the items."""
    assert isinstance(problem, AttentionPrefill)
    return plan_from(problem, choice_for(problem, device), device, plan_inputs)


def plan_from(problem: AttentionPrefill, schedule: Schedule, device: Device, plan_inputs: Inputs) -> HopperPlan:
    """What follows from a choice."""
    fallback = FALLBACK.plan(problem, plan_inputs, device)
    where, sequences = plan_inputs["cu_seqlens_q"].device, planned_lengths(plan_inputs, problem.sequences)
    num_keys = sum(n for _, n in sequences)
    block_n, stages = tiles_that_fit(problem, schedule)
    at_once = heads_at_once(num_keys, problem.num_kv_heads, 2 * problem.head_dim * 2, schedule.cache_mib << 20)
    items = table(
        sequences, problem.num_heads, problem.num_kv_heads, problem.causal, problem.window, device.num_sms, at_once,
        block_n, schedule.start_tiles,
    )  # fmt: skip
    return HopperPlan(
        items=items.to(where),
        softmax_scale=problem.softmax_scale,
        num_heads=problem.num_heads,
        num_kv_heads=problem.num_kv_heads,
        causal=problem.causal,
        window=problem.window,
        return_lse=problem.return_lse,
        rope=0,
        stages=stages,
        block_n=block_n,
        late_rounding=schedule.late_rounding,
        fallback=fallback if where.type == "cpu" or fallback.parts > 1 else None,
    )


def run(inputs: Inputs, state: HopperPlan) -> Outputs:
    """One launch, or two where keys are split."""
    if state.fallback:
        return FALLBACK.run(inputs, state.fallback)
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
