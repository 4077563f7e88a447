"""PyTorch's grouped product: one call for all experts, their rows sorted and delimited by offsets on the device.

`torch._grouped_mm` (its public name since 2.10, `torch.nn.functional.grouped_mm`, may be missing) takes bfloat16 with
rows that begin at multiples of 16 bytes. Rows behind the last offset are left as they are.
"""

from __future__ import annotations

import torch

from ..device import Device
from ..kernel import Kernel, Origin
from ..problem import Inputs, Outputs, Problem
from ._layout import sorted_slots, weighted_sum
from ._torch_tasks import routed
from .problem import MoEGroupedGEMM, MoELayer

ALIGNMENT = 8
"""Columns of 2 bytes in 16."""


def supports(problem: Problem, device: Device) -> str | None:
    """None, or the limit that this problem is past."""
    assert isinstance(problem, MoEGroupedGEMM | MoELayer)
    if not hasattr(torch, "_grouped_mm"):
        return f"PyTorch {torch.__version__} has no torch._grouped_mm"
    if (problem.dtype, problem.weight_dtype) != ("bfloat16", "bfloat16"):
        return f"torch._grouped_mm wants bfloat16; these are {problem.dtype} and {problem.weight_dtype}"
    if problem.hidden_size % ALIGNMENT or problem.intermediate_size % ALIGNMENT:
        return "torch._grouped_mm wants rows that begin at multiples of 16 bytes"
    if device.kind == "cuda" and device.compute_capability < 80:
        return f"torch._grouped_mm wants sm_80 or later; this is {device.arch}"
    return None


def run(inputs: Inputs, problem: Problem) -> Outputs:
    """One task or the other."""
    if isinstance(problem, MoEGroupedGEMM):
        return {"h": _swiglu(inputs["x"], inputs["w13"], inputs["expert_ends"])}
    assert isinstance(problem, MoELayer)
    ids, weights = routed(inputs, problem)
    slots, ends = sorted_slots(ids, problem.stored_experts)
    h = _swiglu(inputs["hidden"][slots // problem.slots], inputs["w13"], ends)
    y = torch._grouped_mm(h, inputs["w2"].mT, offs=ends)  # noqa: SLF001 - it has no public name everywhere
    return {"out": weighted_sum(y, slots, ids, weights).to(h.dtype)}


def _swiglu(x: torch.Tensor, w13: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    both = torch._grouped_mm(x, w13.mT, offs=ends)  # noqa: SLF001 - likewise
    gate, up = both.chunk(2, dim=-1)
    return torch.nn.functional.silu(gate) * up


KERNEL = Kernel(
    origin=Origin.VENDOR,
    tasks=("grouped_gemm", "layer"),
    run=run,
    supports=supports,
    version=lambda: torch.__version__,
)
