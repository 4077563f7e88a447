"""The router in Triton: one program a token, its scores in registers from the logits to the chosen experts.

Experts lie in [groups, members of a group], both filled up to powers of two with scores of -inf. Groups and then
experts are chosen one after the other, each time the largest that is left. One warp holds a token, so that no step
waits for another warp.
"""

from __future__ import annotations

from ..device import Device
from ..kernel import Kernel, Origin
from ..problem import Inputs, Outputs, Problem
from ._route_triton import RouterPlan, route_tokens
from .problem import MoERouter

EXPERTS_OF_A_WARP = 512


def plan(problem: Problem, plan_inputs: Inputs, device: Device) -> RouterPlan:
    """One warp (wavefront) and token for up to 512 experts; Triton's interpreter wants few programs."""
    assert isinstance(problem, MoERouter)
    block_t = 64 if device.kind == "cpu" else 1
    return RouterPlan(problem, block_t, 1 if problem.num_experts <= EXPERTS_OF_A_WARP else 4)


def run(inputs: Inputs, state: RouterPlan) -> Outputs:
    """One launch."""
    return route_tokens(inputs, state, False)


KERNEL = Kernel(origin=Origin.HAND, tasks=("router",), run=run, plan=plan, requires=("triton",), uses_triton=True)
