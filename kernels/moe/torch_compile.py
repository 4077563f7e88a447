"""Mixture of experts by torch.compile: Inductor's C++ on the CPU, its Triton and cuBLAS or hipBLAS on a GPU.

Written naively, with shapes that do not depend on the routing. For few slots every slot gets a copy of its expert's
weights; for more, every expert computes every token and a dense [tokens, experts] matrix of weights, mostly zeros,
picks what counts. Products of 8-bit values are made in the dtype of the activations, their scales applied before.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from ..device import Device
from ..inductor import compiled, warm_up
from ..kernel import Kernel, Origin
from ..problem import Inputs, Outputs, Problem
from ._quant import dequantize, dequantize_weight, quantize
from ._torch_tasks import permuted, routed, router, unpermuted
from .problem import MoEGroupedGEMM, MoELayer

MAX_WORKSPACE_BYTES = 16 * 10**9
MOST_GATHERED_SLOTS = 16

Function = Callable[[Inputs, Any], Outputs]


def grouped_gemm(inputs: Inputs, problem: MoEGroupedGEMM) -> Outputs:
    """Every expert on every row; the row's own is picked."""
    ends, dtype = inputs["expert_ends"], getattr(torch, problem.dtype)
    x = dequantize(inputs["x"], inputs["x_scale"]) if problem.is_fp8 else inputs["x"]
    all_h = _swiglu(x.expand(problem.num_experts, -1, -1), _weight(inputs, "w13", None), dtype)
    row = torch.arange(problem.rows, device=ends.device)
    expert = (row[:, None] >= ends[None, :]).sum(1)
    return {"h": all_h[expert, row].to(dtype)}


def layer(inputs: Inputs, problem: MoELayer) -> Outputs:
    """Few slots: their experts' weights are gathered. More: all experts on all tokens."""
    ids, weights = routed(inputs, problem)
    hidden = inputs["hidden"]
    dtype, w_dtype = hidden.dtype, inputs["w13"].dtype

    def seen(x: torch.Tensor) -> torch.Tensor:
        return dequantize(*quantize(x, w_dtype)) if problem.is_fp8 else x

    if _gathers(problem):
        expert = ids.flatten().clamp_min(0)
        x = seen(hidden).repeat_interleave(problem.slots, 0)[:, None]
        h = seen(_swiglu(x, _weight(inputs, "w13", expert), dtype))
        y = _bmm(h, _weight(inputs, "w2", expert), dtype).view(problem.tokens, problem.slots, -1)
        return {"out": (y.float() * torch.where(ids >= 0, weights, 0.0)[..., None]).sum(1).to(dtype)}
    experts = torch.arange(problem.stored_experts, device=ids.device)
    dense = torch.where(ids[:, :, None] == experts, weights[:, :, None], 0.0).sum(1)  # [tokens, experts]
    x = seen(hidden).expand(problem.stored_experts, -1, -1)
    h = seen(_swiglu(x, _weight(inputs, "w13", None), dtype))
    y = _bmm(h, _weight(inputs, "w2", None), dtype)  # [experts, tokens, hidden_size]
    return {"out": (y.float() * dense.T[:, :, None]).sum(0).to(dtype)}


def _swiglu(x: torch.Tensor, w13: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    gate, up = _bmm(x, w13, dtype).float().chunk(2, dim=-1)
    return torch.nn.functional.silu(gate) * up


def _bmm(x: torch.Tensor, weight: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """[n, rows, columns of the weight]; a CPU's 16-bit product is slow, so it is made in float32 there."""
    matmul_dtype = dtype if x.is_cuda else torch.float32
    return torch.bmm(x.to(matmul_dtype), weight.to(matmul_dtype).transpose(1, 2))


def _weight(inputs: Inputs, name: str, expert: torch.Tensor | None) -> torch.Tensor:
    """All experts' matrices, or those of `expert` [n]."""
    weight, scale = inputs[name], inputs.get(f"{name}_scale")
    if expert is not None:
        weight = weight.view(torch.uint8)[expert].view(weight.dtype) if scale is not None else weight[expert]
        scale = None if scale is None else scale[expert]
    return weight if scale is None else dequantize_weight(weight, scale)


def _gathers(problem: MoELayer) -> bool:
    return problem.tokens * problem.slots <= MOST_GATHERED_SLOTS


_TASKS: dict[str, Any] = {
    "router": router, "permute": permuted, "unpermute": unpermuted, "grouped_gemm": grouped_gemm, "layer": layer,
}  # fmt: skip


@functools.cache
def _compiled(problem: Problem, torch_device: str) -> Function:
    function: Function = compiled(_TASKS[problem.task])
    return function


def plan(problem: Problem, plan_inputs: Inputs, device: Device) -> tuple[Function, Problem]:
    """Compilation itself waits for the first `run`."""
    return _compiled(problem, device.torch_name), problem


def run(inputs: Inputs, state: tuple[Function, Problem]) -> Outputs:
    """One call of the compiled function; the first one compiles."""
    function, problem = state
    return function(inputs, problem)


def supports(problem: Problem, device: Device) -> str | None:
    """Refuses what would need more than 16 GB beside its inputs."""
    if not isinstance(problem, MoEGroupedGEMM | MoELayer):
        return None
    width = 2 * problem.intermediate_size + problem.hidden_size
    size = 4 if device.kind == "cpu" else 2
    if isinstance(problem, MoELayer) and _gathers(problem):
        workspace_bytes = problem.tokens * problem.slots * 3 * problem.hidden_size * problem.intermediate_size * size
    else:
        rows = problem.rows if isinstance(problem, MoEGroupedGEMM) else problem.tokens
        workspace_bytes = problem.stored_experts * rows * width * size
        if problem.is_fp8:
            workspace_bytes += problem.stored_experts * 3 * problem.hidden_size * problem.intermediate_size * size
    if workspace_bytes > MAX_WORKSPACE_BYTES:
        return (
            f"every expert on every row would take {workspace_bytes / 1e9:.0f} GB, "
            f"more than the {MAX_WORKSPACE_BYTES / 1e9:.0f} GB that this kernel allows itself"
        )
    return None


KERNEL = Kernel(
    origin=Origin.GENERATED,
    tasks=("router", "permute", "unpermute", "grouped_gemm", "layer"),
    run=run,
    plan=plan,
    supports=supports,
    warm_up=warm_up,
)
