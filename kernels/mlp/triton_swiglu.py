"""SwiGLU's product in Triton: silu(gate) * up, bound by memory, with 16-byte loads and stores."""

from __future__ import annotations

import triton
import triton.language as tl

from ..kernel import Kernel, Origin
from ..problem import Inputs, Outputs
from ._activation import silu
from ._swiglu_plan import SwiGLUPlan, plan


@triton.jit
def _swiglu(
    gate_up, out, INTERMEDIATE: tl.constexpr, BLOCK: tl.constexpr, LOAD_POLICY: tl.constexpr,
    STORE_MODIFIER: tl.constexpr,
):  # fmt: skip
    """Program i: columns [i % n * BLOCK, ..) of row i // n, where n blocks cover a row."""
    blocks: tl.constexpr = (INTERMEDIATE + BLOCK - 1) // BLOCK
    row = (tl.program_id(0) // blocks).to(tl.int64)
    column = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    mask = column < INTERMEDIATE
    at = gate_up + row * (2 * INTERMEDIATE) + column
    gate = tl.load(at, mask=mask, other=0.0, eviction_policy=LOAD_POLICY).to(tl.float32)
    up = tl.load(at + INTERMEDIATE, mask=mask, other=0.0, eviction_policy=LOAD_POLICY).to(tl.float32)
    activated = (silu(gate) * up).to(out.dtype.element_ty)
    tl.store(out + row * INTERMEDIATE + column, activated, mask=mask, cache_modifier=STORE_MODIFIER)


def run(inputs: Inputs, state: SwiGLUPlan) -> Outputs:
    """One launch."""
    tokens, intermediate_size = state.problem.tokens, state.problem.intermediate_size
    out = inputs["gate_up"].new_empty((tokens, intermediate_size))
    _swiglu[(tokens * triton.cdiv(intermediate_size, state.block),)](
        inputs["gate_up"], out, INTERMEDIATE=intermediate_size, BLOCK=state.block, LOAD_POLICY=state.load_policy,
        STORE_MODIFIER=state.store_modifier, num_warps=state.num_warps,
    )  # fmt: skip
    return {"out": out}


KERNEL = Kernel(origin=Origin.HAND, tasks=("swiglu",), run=run, plan=plan, requires=("triton",), uses_triton=True)
