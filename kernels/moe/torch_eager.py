"""Mixture of experts in eager PyTorch, as model code without a library for it does it: one expert after the other.

Rows are sorted by expert; how many each expert has is read by the host, and two cuBLAS (hipBLASLt, oneDNN) products
follow for each of those that have any. A call that reads from the device cannot be captured in a graph.
"""

from __future__ import annotations

import torch

from ..device import Device
from ..kernel import Kernel, Origin
from ..problem import Inputs, Outputs, Problem
from ._layout import sorted_slots, weighted_sum
from ._torch_tasks import permuted, routed, router, unpermuted
from .problem import MoEGroupedGEMM, MoELayer, MoEPermute, MoERouter


def supports(problem: Problem, device: Device) -> str | None:
    """None, or that eager PyTorch has no product with scales of blocks."""
    if isinstance(problem, MoEGroupedGEMM | MoELayer) and problem.is_fp8:
        return "eager PyTorch has no product of 8-bit blocks with a scale each for both operands on every device"
    return None


def run(inputs: Inputs, problem: Problem) -> Outputs:
    """One task or the other."""
    if isinstance(problem, MoERouter):
        return router(inputs, problem)
    if isinstance(problem, MoEPermute):
        return permuted(inputs, problem)
    if isinstance(problem, MoEGroupedGEMM):
        return {"h": _swiglu(inputs["x"], inputs["expert_ends"], inputs["w13"])}
    return _layer(inputs, problem) if isinstance(problem, MoELayer) else unpermuted(inputs, problem)


def _swiglu(x: torch.Tensor, expert_ends: torch.Tensor, w13: torch.Tensor) -> torch.Tensor:
    h = x.new_empty((len(x), w13.shape[1] // 2))
    start = 0
    for expert, end in enumerate(expert_ends.tolist()):
        if end > start:
            gate, up = (x[start:end] @ w13[expert].T).chunk(2, dim=-1)
            torch.mul(torch.nn.functional.silu(gate), up, out=h[start:end])
        start = end
    return h


def _layer(inputs: Inputs, problem: MoELayer) -> Outputs:
    ids, weights = routed(inputs, problem)
    slots, ends = sorted_slots(ids, problem.stored_experts)
    h = _swiglu(inputs["hidden"][slots // problem.slots], ends, inputs["w13"])
    y = h.new_zeros((len(h), problem.hidden_size))
    start = 0
    for expert, end in enumerate(ends.tolist()):
        if end > start:
            torch.mm(h[start:end], inputs["w2"][expert].T, out=y[start:end])
        start = end
    return {"out": weighted_sum(y, slots, ids, weights).to(h.dtype)}


KERNEL = Kernel(
    origin=Origin.VENDOR,
    tasks=("router", "permute", "unpermute", "grouped_gemm", "layer"),
    run=run,
    supports=supports,
    version=lambda: torch.__version__,
)
