"""The router in Triton: one program a token, its scores in registers from the logits to the chosen experts.

Experts lie in [groups, members of a group], both filled up to powers of two with scores of -inf. Groups and then
experts are chosen one after the other, each time the largest that is left. One warp holds a token, so that no step
waits for another warp.
"""

from __future__ import annotations

from ..kernel import Kernel, Origin
from ..problem import Inputs, Outputs
from ._route_triton import route_tokens
from ._router_plan import RouterPlan, plan


def run(inputs: Inputs, state: RouterPlan) -> Outputs:
    """One launch."""
    return route_tokens(inputs, state, False)


KERNEL = Kernel(origin=Origin.HAND, tasks=("router",), run=run, plan=plan, requires=("triton",), uses_triton=True)
