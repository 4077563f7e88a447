"""The gated MLP in Triton, in two or three launches; nothing wider than the MLP's intermediate goes to memory.

    (1) h = rmsnorm(x); a single token is normed by the second kernel itself
    (2) a = silu(h . gate^T) * (h . up^T): both tiles are one program's, so the gate and up products stay in registers
    (3) out = x + a . down^T

Up to 128 tokens the products stream the weights: `_vector_gemm` for one token, `_hopper_skinny_gemm` for up to 16 on
Hopper, else `_skinny_gemm`. Beyond that they are tiled (`_tile_gemm`). From sm_90 each kernel is launched while the one
ahead still runs, and those that stream fetch their first weights meanwhile.
"""

from __future__ import annotations

import torch

from ..kernel import Kernel, Origin
from ..problem import Inputs, Outputs
from ._block_plan import BlockPlan, plan
from ._gemm_launch import launch_gemm, launch_norm
from ._gemm_plan import num_counters


def run(inputs: Inputs, state: BlockPlan) -> Outputs:
    """Two or three launches."""
    x, product = inputs["x"], state.gate_up.product
    counters = None
    if num_counters(state.gate_up):
        counters = (x.new_zeros if state.norm is None else x.new_empty)(num_counters(state.gate_up), dtype=torch.int32)
    next_counters = x.new_empty(num_counters(state.down), dtype=torch.int32) if num_counters(state.down) else None
    h = x if state.norm is None else launch_norm(state.norm, x, inputs["norm_weight"], product.epsilon, counters)
    activated = x.new_empty((product.tokens, product.n))
    launch_gemm(
        state.gate_up, h, inputs["w_gate_up"], {"norm_weight": inputs.get("norm_weight"), "out": activated},
        state.norm is not None, counters, next_counters,
    )  # fmt: skip
    out = x.new_empty(x.shape)
    launch_gemm(state.down, activated, inputs["w_down"], {"out": out, "residual": x}, True, next_counters, None)
    return {"out": out}


KERNEL = Kernel(origin=Origin.HAND, tasks=("block",), run=run, plan=plan, requires=("triton",), uses_triton=True)
